//! Metadata of version 16 as version 15 tells it, for a client that reads no newer one (bittensor before 11): a node makes both
//! from one program, a recording holds one of them.

use frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed, v14, v15, v16};
use parity_scale_codec::{Decode, Encode};
use scale_info::{TypeDef, form::PortableForm};

/// Transactions of this version are what everybody signs today.
const EXTRINSIC_VERSION: u8 = 4;
/// Their extensions' version.
const EXTENSIONS_VERSION: u8 = 0;

/// `None` for metadata of another version.
pub(crate) fn of_v16(bytes: &[u8]) -> Option<Vec<u8>> {
    let RuntimeMetadataPrefixed(_, RuntimeMetadata::V16(newer)) =
        RuntimeMetadataPrefixed::decode(&mut &*bytes).unwrap()
    else {
        return None;
    };
    let is_unit = |ty: &TypeDef<PortableForm>| matches!(ty, TypeDef::Tuple(tuple) if tuple.fields.is_empty());
    let unit = newer.types.types.iter().find(|ty| is_unit(&ty.ty.type_def)).unwrap().id.into();
    let enums = newer.outer_enums;
    let older = v15::RuntimeMetadataV15 {
        types: newer.types,
        pallets: newer.pallets.into_iter().map(pallet).collect(),
        extrinsic: v15::ExtrinsicMetadata {
            version: EXTRINSIC_VERSION,
            signed_extensions: extensions(&newer.extrinsic),
            address_ty: newer.extrinsic.address_ty,
            call_ty: enums.call_enum_ty,
            signature_ty: newer.extrinsic.signature_ty,
            extra_ty: unit,
        },
        ty: unit,
        apis: newer.apis.into_iter().map(api).collect(),
        outer_enums: enums,
        custom: newer.custom,
    };
    Some(RuntimeMetadataPrefixed::from(older).encode())
}

fn pallet(newer: v16::PalletMetadata<PortableForm>) -> v15::PalletMetadata<PortableForm> {
    let entry = |entry: v16::StorageEntryMetadata<PortableForm>| v14::StorageEntryMetadata {
        name: entry.name,
        modifier: entry.modifier,
        ty: entry.ty,
        default: entry.default,
        docs: entry.docs,
    };
    let storage = |storage: v16::PalletStorageMetadata<PortableForm>| v14::PalletStorageMetadata {
        prefix: storage.prefix,
        entries: storage.entries.into_iter().map(entry).collect(),
    };
    let constant = |constant: v16::PalletConstantMetadata<PortableForm>| v14::PalletConstantMetadata {
        name: constant.name,
        ty: constant.ty,
        value: constant.value,
        docs: constant.docs,
    };
    v15::PalletMetadata {
        name: newer.name,
        storage: newer.storage.map(storage),
        calls: newer.calls.map(|calls| v14::PalletCallMetadata { ty: calls.ty }),
        event: newer.event.map(|event| v14::PalletEventMetadata { ty: event.ty }),
        constants: newer.constants.into_iter().map(constant).collect(),
        error: newer.error.map(|error| v14::PalletErrorMetadata { ty: error.ty }),
        index: newer.index,
        docs: newer.docs,
    }
}

fn extensions(newer: &v16::ExtrinsicMetadata<PortableForm>) -> Vec<v15::SignedExtensionMetadata<PortableForm>> {
    let places = &newer.transaction_extensions_by_version[&EXTENSIONS_VERSION];
    let used = places.iter().map(|place| &newer.transaction_extensions[place.0 as usize]);
    used.map(|extension| v15::SignedExtensionMetadata {
        identifier: extension.identifier.clone(),
        ty: extension.ty,
        additional_signed: extension.implicit,
    })
    .collect()
}

fn api(newer: v16::RuntimeApiMetadata<PortableForm>) -> v15::RuntimeApiMetadata<PortableForm> {
    let method = |method: v16::RuntimeApiMethodMetadata<PortableForm>| v15::RuntimeApiMethodMetadata {
        name: method.name,
        inputs: method.inputs,
        output: method.output,
        docs: method.docs,
    };
    v15::RuntimeApiMetadata {
        name: newer.name,
        methods: newer.methods.into_iter().map(method).collect(),
        docs: newer.docs,
    }
}
