//! A signed transaction as bytes (`UncheckedExtrinsic` version 4 of the Polkadot SDK), laid out by the chain's metadata.

use frame_decode::extrinsics::{
    ExtrinsicTypeInfo, TransactionExtensions, TransactionExtensionsError, encode_v4_signed, encode_v4_signer_payload,
};
use openvalidators_keys::HotkeySigner;
use parity_scale_codec::Encode;
use scale_info::PortableRegistry;
use scale_value::{Composite, Value, scale::encode_as_type};

use super::{
    runtime::{PALLET, Runtime},
    scale::Unreadable,
};

/// Blocks in which a transaction can be included, counted from the one it names: an attempt is over, and known to be, when
/// they have passed. A power of two.
pub(crate) const ERA_BLOCKS: u64 = 16;

/// A call of the pallet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// Arguments by name.
    pub(crate) arguments: Composite<()>,
}

/// What a signature covers besides the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// The sender's transactions so far, those in the pool included.
    pub(crate) nonce: u64,
    /// Block 0.
    pub(crate) genesis: [u8; 32],
    /// The block the era starts at.
    pub(crate) born_at: u64,
    /// Its hash.
    pub(crate) born_hash: [u8; 32],
}

/// The extensions this program fills in; those without data are left to the metadata. Names are the chain's own: 425 calls
/// the fee extension `ChargeTransactionPaymentWrapper`.
struct Extensions<'a> {
    runtime: &'a Runtime,
    context: &'a Context,
}

// === impl Call ===

impl Call {
    pub(crate) fn new(name: &'static str, arguments: impl IntoIterator<Item = (&'static str, Value<()>)>) -> Self {
        Self { name, arguments: Composite::named(arguments) }
    }

    /// Signs.
    ///
    /// # Errors
    /// When the chain's metadata has no such call, other arguments, or an extension that this program does not know.
    pub(crate) fn sign(
        &self,
        runtime: &Runtime,
        context: &Context,
        signer: &HotkeySigner,
    ) -> Result<Vec<u8>, Unreadable> {
        let payload = self.payload(runtime, context)?;
        let signature = Value::unnamed_variant("Sr25519", [Value::from_bytes(signer.sign(&payload))]);
        let address = Value::unnamed_variant("Id", [Value::from_bytes(signer.hotkey().0)]);
        let (metadata, extensions) = (runtime.metadata(), Extensions { runtime, context });
        let (call, types) = (&self.arguments, metadata.types());
        encode_v4_signed(PALLET, self.name, call, &extensions, &address, &signature, metadata, types)
            .map_err(|error| self.wrong(runtime, &error))
    }

    /// The bytes that are signed: the call, what the transaction says besides, and what both sides know.
    pub(crate) fn payload(&self, runtime: &Runtime, context: &Context) -> Result<Vec<u8>, Unreadable> {
        let (metadata, extensions) = (runtime.metadata(), Extensions { runtime, context });
        self.check(runtime)?;
        encode_v4_signer_payload(PALLET, self.name, &self.arguments, &extensions, metadata, metadata.types())
            .map_err(|error| self.wrong(runtime, &error))
    }

    /// An argument that the chain added or renamed would be silently left out or misread otherwise.
    fn check(&self, runtime: &Runtime) -> Result<(), Unreadable> {
        let call = runtime
            .metadata()
            .extrinsic_call_info_by_name(PALLET, self.name)
            .map_err(|error| self.wrong(runtime, &error.into_owned()))?;
        let Composite::Named(ours) = &self.arguments else { return Ok(()) };
        let same = call.args.len() == ours.len()
            && ours.iter().all(|(name, _)| call.args.iter().any(|argument| argument.name == *name));
        if same {
            return Ok(());
        }
        let theirs: Vec<_> = call.args.iter().map(|argument| argument.name.as_ref()).collect();
        let ours: Vec<_> = ours.iter().map(|(name, _)| name.as_str()).collect();
        Err(self.wrong(runtime, &format!("it takes ({}), this version gives ({})", theirs.join(", "), ours.join(", "))))
    }

    fn wrong(&self, runtime: &Runtime, error: &dyn std::fmt::Display) -> Unreadable {
        let (name, spec) = (self.name, runtime.spec_version);
        Unreadable(format!("{name} cannot be written for runtime {spec}: {error}; a newer version is needed"))
    }
}

// === impl Context ===

impl Context {
    /// The first block that no longer takes the transaction.
    pub(crate) fn dies_at(&self) -> u64 {
        self.born_at.saturating_add(ERA_BLOCKS)
    }

    /// A mortal era: the period's exponent and the phase, in two bytes (`sp_runtime::generic::Era`).
    fn era(&self) -> [u8; 2] {
        let exponent = (ERA_BLOCKS.trailing_zeros() - 1) as u16;
        let phase = (self.born_at % ERA_BLOCKS) as u16;
        (exponent | phase << 4).to_le_bytes()
    }
}

// === impl TransactionExtensions for Extensions ===

impl TransactionExtensions<PortableRegistry> for Extensions<'_> {
    fn contains_extension(&self, name: &str) -> bool {
        matches!(
            name,
            "CheckSpecVersion"
                | "CheckTxVersion"
                | "CheckGenesis"
                | "CheckMortality"
                | "CheckEra"
                | "CheckNonce"
                | "ChargeTransactionPayment"
                | "ChargeTransactionPaymentWrapper"
                | "CheckMetadataHash"
        )
    }

    fn encode_extension_value_to(
        &self,
        name: &str,
        type_id: u32,
        types: &PortableRegistry,
        out: &mut Vec<u8>,
    ) -> Result<(), TransactionExtensionsError> {
        let value = match name {
            "CheckMortality" | "CheckEra" => {
                out.extend(self.context.era());
                return Ok(());
            }
            "CheckNonce" => Value::u128(u128::from(self.context.nonce)),
            // No tip.
            "ChargeTransactionPayment" | "ChargeTransactionPaymentWrapper" => Value::u128(0),
            // The digest of RFC-78 is not signed.
            "CheckMetadataHash" => Value::named_composite([("mode", Value::unnamed_variant("Disabled", []))]),
            _ => return Err(TransactionExtensionsError::NotFound(name.to_owned())),
        };
        encode_as_type(&value, type_id, types, out).map_err(|error| TransactionExtensionsError::Other {
            extension_name: name.to_owned(),
            error: error.to_string().into(),
        })
    }

    fn encode_extension_implicit_to(
        &self,
        name: &str,
        _: u32,
        _: &PortableRegistry,
        out: &mut Vec<u8>,
    ) -> Result<(), TransactionExtensionsError> {
        match name {
            "CheckSpecVersion" => self.runtime.spec_version.encode_to(out),
            "CheckTxVersion" => self.runtime.transaction_version.encode_to(out),
            "CheckGenesis" => self.context.genesis.encode_to(out),
            "CheckMortality" | "CheckEra" => self.context.born_hash.encode_to(out),
            "CheckMetadataHash" => None::<[u8; 32]>.encode_to(out),
            _ => return Err(TransactionExtensionsError::NotFound(name.to_owned())),
        }
        Ok(())
    }
}
