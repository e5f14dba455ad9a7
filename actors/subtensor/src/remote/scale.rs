//! Reading SCALE bytes by the types the chain describes them with: structs by the names of their fields, enums by the
//! names of their variants.
//!
//! What a node sends is read by types that the same node sent, so both may be hostile. [`Weights`] refuses types that
//! could make a few bytes cost much time or stack before anything is read by them.

use scale_decode::{DecodeAsType, visitor::IgnoreVisitor, visitor::decode_with_visitor};
use scale_info::{PortableRegistry, Type, TypeDef, form::PortableForm};

/// How deep types may be nested. Those of subtensor that are read here reach 12.
const MAX_DEPTH: u32 = 48;
/// How many parts a type may have, sequences counting one element and enums their largest variant.
const MAX_PARTS: u64 = 1 << 16;

/// Bytes that are not what their type says, or a type that is not what this program reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(pub(crate) String);

/// The parts of one struct, or of one variant of an enum: names, types and bytes.
pub(crate) struct Fields<'a> {
    types: &'a PortableRegistry,
    fields: Vec<Field<'a>>,
}

struct Field<'a> {
    /// Empty in tuples.
    name: &'a str,
    type_id: u32,
    bytes: &'a [u8],
}

/// The variant that an enum's bytes hold.
pub(crate) struct Chosen<'a> {
    pub(crate) name: &'a str,
    pub(crate) fields: Fields<'a>,
}

/// What it can cost to read each type of a registry; nothing for types that must not be read.
pub(crate) struct Weights(Vec<Option<Weight>>);

#[derive(Clone, Copy)]
struct Weight {
    depth: u32,
    parts: u64,
    /// It has no bytes: a sequence of such would be as long as it claims, for free.
    empty: bool,
}

/// Takes one value off the front.
pub(crate) fn cut<'a>(bytes: &mut &'a [u8], type_id: u32, types: &PortableRegistry) -> Result<&'a [u8], Unreadable> {
    let all = *bytes;
    decode_with_visitor(bytes, type_id, types, IgnoreVisitor::<PortableRegistry>::new())
        .map_err(|error| Unreadable(error.to_string()))?;
    Ok(&all[..all.len() - bytes.len()])
}

/// Takes SCALE's compact number off the front: how many elements a sequence claims to have.
pub(crate) fn cut_length(bytes: &mut &[u8]) -> Result<usize, Unreadable> {
    use parity_scale_codec::{Compact, Decode};
    let Compact(length) = Compact::<u32>::decode(bytes).map_err(|error| Unreadable(error.to_string()))?;
    usize::try_from(length).map_err(|error| Unreadable(error.to_string()))
}

/// A whole value; bytes that are left over are an error.
pub(crate) fn whole<T: DecodeAsType>(bytes: &[u8], type_id: u32, types: &PortableRegistry) -> Result<T, Unreadable> {
    let mut rest = bytes;
    let value = T::decode_as_type(&mut rest, type_id, types).map_err(|error| Unreadable(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(Unreadable(format!("{} bytes are left over", rest.len()))) }
}

/// What is inside an `Option`, with its type; other types are passed on as they are.
pub(crate) fn some<'a>(
    bytes: &'a [u8],
    type_id: u32,
    types: &PortableRegistry,
) -> Result<Option<(&'a [u8], u32)>, Unreadable> {
    let ty = resolve(type_id, types)?;
    let inner = ty.type_params.first().and_then(|parameter| parameter.ty);
    match (ty.path.segments.last().map(String::as_str), inner) {
        (Some("Option"), Some(inner)) => match bytes.split_first() {
            Some((0, [])) => Ok(None),
            Some((1, rest)) => Ok(Some((rest, inner.id))),
            _ => Err(Unreadable("an Option is neither None nor Some".to_owned())),
        },
        _ => Ok(Some((bytes, type_id))),
    }
}

/// The elements of a sequence, `limit` at most.
pub(crate) fn elements<'a>(
    mut bytes: &'a [u8],
    type_id: u32,
    types: &PortableRegistry,
    limit: usize,
) -> Result<(u32, Vec<&'a [u8]>), Unreadable> {
    let TypeDef::Sequence(sequence) = &resolve(type_id, types)?.type_def else {
        return Err(Unreadable("not a sequence".to_owned()));
    };
    let element = sequence.type_param.id;
    let length = cut_length(&mut bytes)?;
    if length > limit {
        return Err(Unreadable(format!("{length} elements where {limit} is the most")));
    }
    let cut = (0..length).map(|_| cut(&mut bytes, element, types)).collect::<Result<_, _>>()?;
    if bytes.is_empty() { Ok((element, cut)) } else { Err(Unreadable(format!("{} bytes are left over", bytes.len()))) }
}

/// Takes an enum off the front.
pub(crate) fn variant<'a>(
    bytes: &mut &'a [u8],
    type_id: u32,
    types: &'a PortableRegistry,
) -> Result<Chosen<'a>, Unreadable> {
    let TypeDef::Variant(variants) = &resolve(type_id, types)?.type_def else {
        return Err(Unreadable("not an enum".to_owned()));
    };
    let (index, rest) = bytes.split_first().ok_or_else(|| Unreadable("no bytes are left for an enum".to_owned()))?;
    let variant = variants.variants.iter().find(|variant| variant.index == *index);
    let variant = variant.ok_or_else(|| Unreadable(format!("no variant of the enum has the index {index}")))?;
    *bytes = rest;
    Ok(Chosen { name: &variant.name, fields: Fields::cut(bytes, &variant.fields, types)? })
}

fn resolve(type_id: u32, types: &PortableRegistry) -> Result<&Type<PortableForm>, Unreadable> {
    types.resolve(type_id).ok_or_else(|| Unreadable(format!("the metadata has no type {type_id}")))
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Takes a struct apart that is all of `bytes`.
    pub(crate) fn of(mut bytes: &'a [u8], type_id: u32, types: &'a PortableRegistry) -> Result<Self, Unreadable> {
        let TypeDef::Composite(composite) = &resolve(type_id, types)?.type_def else {
            return Err(Unreadable("not a struct".to_owned()));
        };
        let fields = Self::cut(&mut bytes, &composite.fields, types)?;
        if bytes.is_empty() { Ok(fields) } else { Err(Unreadable(format!("{} bytes are left over", bytes.len()))) }
    }

    fn cut(
        bytes: &mut &'a [u8],
        fields: &'a [scale_info::Field<PortableForm>],
        types: &'a PortableRegistry,
    ) -> Result<Self, Unreadable> {
        let take = |field: &'a scale_info::Field<PortableForm>| {
            let name = field.name.as_deref().unwrap_or_default();
            let bytes = cut(bytes, field.ty.id, types).map_err(|error| Unreadable(format!("`{name}`: {error}")))?;
            Ok(Field { name, type_id: field.ty.id, bytes })
        };
        Ok(Self { types, fields: fields.iter().map(take).collect::<Result<_, _>>()? })
    }

    /// A field by its name. A field that is an `Option` must hold something, unless `T` is one too.
    pub(crate) fn get<T: DecodeAsType>(&self, name: &str) -> Result<T, Unreadable> {
        let (bytes, type_id) = self.raw(name)?;
        let read = || {
            let (bytes, type_id) =
                some(bytes, type_id, self.types)?.ok_or_else(|| Unreadable("the node left it out".to_owned()))?;
            whole(bytes, type_id, self.types)
        };
        read().map_err(|error| Unreadable(format!("`{name}`: {error}")))
    }

    /// Whether there is a field of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// A field's bytes and type.
    pub(crate) fn raw(&self, name: &str) -> Result<(&'a [u8], u32), Unreadable> {
        let field = self.fields.iter().find(|field| field.name == name);
        let field = field.ok_or_else(|| Unreadable(format!("there is no field `{name}`")))?;
        Ok((field.bytes, field.type_id))
    }

    /// The first field's bytes and type: all there is to say about a tuple of one.
    pub(crate) fn first(&self) -> Option<(&'a [u8], u32)> {
        self.fields.first().map(|field| (field.bytes, field.type_id))
    }
}

// === impl Weights ===

impl Weights {
    /// Weighs every type. Those that contain themselves never get a weight, and so may not be read: no struct that is
    /// read here does.
    pub(crate) fn of(types: &PortableRegistry) -> Self {
        let mut weights = vec![None; types.types.len()];
        for _ in 0..MAX_DEPTH {
            let mut settled = true;
            for (id, ty) in types.types.iter().enumerate() {
                if weights[id].is_none() {
                    weights[id] = weigh(&ty.ty.type_def, &weights);
                    settled &= weights[id].is_none();
                }
            }
            if settled {
                break;
            }
        }
        Self(weights)
    }

    /// Refuses a type that must not be read.
    pub(crate) fn check(&self, type_id: u32) -> Result<(), Unreadable> {
        let weight = usize::try_from(type_id).ok().and_then(|id| self.0.get(id).copied().flatten());
        weight.map(|_| ()).ok_or_else(|| {
            Unreadable(format!("type {type_id} is missing, endless, or too deep or wide to be read safely"))
        })
    }
}

/// Nothing while a part has no weight yet, or for good when the type is too heavy.
fn weigh(ty: &TypeDef<PortableForm>, weights: &[Option<Weight>]) -> Option<Weight> {
    let of = |id: u32| weights.get(usize::try_from(id).ok()?).copied().flatten();
    let product = |mut parts: &mut dyn Iterator<Item = u32>| {
        Iterator::try_fold(&mut parts, Weight { depth: 0, parts: 1, empty: true }, |sum, id| {
            let part = of(id)?;
            Some(Weight {
                depth: sum.depth.max(part.depth),
                parts: sum.parts.saturating_add(part.parts),
                empty: sum.empty && part.empty,
            })
        })
    };
    let inside = match ty {
        TypeDef::Composite(composite) => product(&mut composite.fields.iter().map(|field| field.ty.id))?,
        TypeDef::Tuple(tuple) => product(&mut tuple.fields.iter().map(|field| field.id))?,
        TypeDef::Variant(variants) => {
            let mut largest = Weight { depth: 0, parts: 1, empty: false };
            for variant in &variants.variants {
                let weight = product(&mut variant.fields.iter().map(|field| field.ty.id))?;
                largest.depth = largest.depth.max(weight.depth);
                largest.parts = largest.parts.max(weight.parts);
            }
            largest
        }
        TypeDef::Array(array) => {
            let element = of(array.type_param.id)?;
            let parts = element.parts.saturating_mul(u64::from(array.len)).max(1);
            Weight { parts, empty: element.empty || array.len == 0, ..element }
        }
        TypeDef::Sequence(sequence) => {
            let element = of(sequence.type_param.id).filter(|element| !element.empty)?;
            Weight { empty: false, ..element }
        }
        TypeDef::Compact(compact) => of(compact.type_param.id)?,
        TypeDef::Primitive(_) | TypeDef::BitSequence(_) => Weight { depth: 0, parts: 1, empty: false },
    };
    let weight = Weight { depth: inside.depth + 1, ..inside };
    (weight.depth <= MAX_DEPTH && weight.parts <= MAX_PARTS).then_some(weight)
}

#[cfg(test)]
mod tests;
