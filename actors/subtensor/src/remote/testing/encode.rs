//! JSON to SCALE by a type of the metadata: how the node double makes answers for whatever runtime it plays. What the JSON
//! leaves out is empty, zero or `None`.

use parity_scale_codec::{Compact, Encode};
use scale_info::{Field, PortableRegistry, TypeDef, TypeDefPrimitive, form::PortableForm};
use serde_json::Value;

/// Panics when the JSON does not fit: a mistake of the test.
pub(crate) fn encode(json: &Value, type_id: u32, types: &PortableRegistry) -> Vec<u8> {
    let mut out = Vec::new();
    write(json, type_id, types, &mut out);
    out
}

fn write(json: &Value, type_id: u32, types: &PortableRegistry, out: &mut Vec<u8>) {
    let ty = types.resolve(type_id).expect("a type of this registry");
    match &ty.type_def {
        TypeDef::Composite(composite) => fields(json, &composite.fields, types, out),
        TypeDef::Variant(variants) if ty.path.segments.last().is_some_and(|name| name == "Option") => {
            out.push(u8::from(!json.is_null()));
            if !json.is_null() {
                let some = variants.variants.iter().find(|variant| variant.name == "Some").unwrap();
                write(json, some.fields[0].ty.id, types, out);
            }
        }
        TypeDef::Variant(variants) => {
            let (name, inner) = match json {
                Value::String(name) => (name.clone(), &Value::Null),
                Value::Object(object) => object.iter().next().map(|(name, inner)| (name.clone(), inner)).unwrap(),
                _ => (variants.variants[0].name.clone(), &Value::Null),
            };
            let found = variants.variants.iter().find(|variant| variant.name == name);
            let variant = found.unwrap_or_else(|| panic!("no variant {name}"));
            out.push(variant.index);
            fields(inner, &variant.fields, types, out);
        }
        TypeDef::Sequence(sequence) => {
            let items = list(json);
            Compact(items.len() as u32).encode_to(out);
            items.iter().for_each(|item| write(item, sequence.type_param.id, types, out));
        }
        TypeDef::Array(array) => {
            let items = list(json);
            (0..array.len as usize)
                .for_each(|place| write(items.get(place).unwrap_or(&Value::Null), array.type_param.id, types, out));
        }
        TypeDef::Tuple(tuple) => {
            let items = list(json);
            for (place, field) in tuple.fields.iter().enumerate() {
                write(items.get(place).unwrap_or(&Value::Null), field.id, types, out);
            }
        }
        TypeDef::Compact(_) => Compact(number(json)).encode_to(out),
        TypeDef::Primitive(primitive) => match primitive {
            TypeDefPrimitive::Bool => json.as_bool().unwrap_or_default().encode_to(out),
            TypeDefPrimitive::Str => json.as_str().unwrap_or_default().encode_to(out),
            TypeDefPrimitive::U8 | TypeDefPrimitive::I8 => (number(json) as u8).encode_to(out),
            TypeDefPrimitive::U16 | TypeDefPrimitive::I16 => (number(json) as u16).encode_to(out),
            TypeDefPrimitive::U32 | TypeDefPrimitive::I32 => (number(json) as u32).encode_to(out),
            TypeDefPrimitive::U64 | TypeDefPrimitive::I64 => (number(json) as u64).encode_to(out),
            TypeDefPrimitive::U128 | TypeDefPrimitive::I128 => number(json).encode_to(out),
            other => panic!("{other:?} is not written here"),
        },
        TypeDef::BitSequence(_) => panic!("bit sequences are not written here"),
    }
}

fn fields(json: &Value, fields: &[Field<PortableForm>], types: &PortableRegistry, out: &mut Vec<u8>) {
    for (place, field) in fields.iter().enumerate() {
        let given = match (&field.name, fields.len()) {
            (Some(name), _) if json.is_object() => json.get(name),
            // A struct around one value is that value.
            (_, 1) => Some(json),
            _ => json.get(place),
        };
        write(given.unwrap_or(&Value::Null), field.ty.id, types, out);
    }
}

/// Bytes may be given in hexadecimal.
fn list(json: &Value) -> Vec<Value> {
    match json {
        Value::Array(items) => items.clone(),
        Value::String(digits) => {
            hex::decode(digits.trim_start_matches("0x")).unwrap().into_iter().map(Value::from).collect()
        }
        _ => Vec::new(),
    }
}

/// Large ones are given as text.
fn number(json: &Value) -> u128 {
    match json {
        Value::String(digits) => digits.parse().unwrap(),
        _ => json.as_u64().unwrap_or_default().into(),
    }
}
