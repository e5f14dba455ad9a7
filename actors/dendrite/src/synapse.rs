//! The `Prompting` synapse on the wire of bittensor 6 to 10: headers, body, hash and the bytes that are signed.
//!
//! Written as bittensor 10 writes it (`bittensor/core/synapse.py`, `dendrite.py`); axons from 6 on accept that. Bittensor
//! 6 itself added `"required_hash_fields"` to the body, which its axons do not ask for.

use std::{borrow::Cow, time::Duration};

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sha3::{Digest, Sha3_256};

use crate::{
    python_json,
    python_repr::{portable, str_of_float, str_of_texts},
};

/// The class name: path of the request and value of the header `name`.
pub const CLASS: &str = "Prompting";

/// The base class, which every axon of the SDK answers by itself: a ping.
pub const PING: &str = "Synapse";

/// Base64 of `[]`: an empty value of the type of a required field, which the axon builds its first instance from.
const EMPTY_LIST: HeaderValue = HeaderValue::from_static("W10=");

/// `sys.getsizeof` of the header dictionary of every recorded request; axons read an integer and do nothing with it.
const HEADER_SIZE: HeaderValue = HeaderValue::from_static("464");

pub(crate) const NAME: HeaderName = HeaderName::from_static("name");
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("timeout");
pub(crate) const INPUT_ROLES: HeaderName = HeaderName::from_static("bt_header_input_obj_roles");
pub(crate) const INPUT_MESSAGES: HeaderName = HeaderName::from_static("bt_header_input_obj_messages");
pub(crate) const BODY_HASH: HeaderName = HeaderName::from_static("computed_body_hash");
const HEADER_SIZE_NAME: HeaderName = HeaderName::from_static("header_size");
const TOTAL_SIZE_NAME: HeaderName = HeaderName::from_static("total_size");

/// One end of an exchange, as headers and bodies carry it. Python's `TerminalInfo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TerminalInfo {
    /// HTTP-like status.
    pub status_code: Option<u16>,
    /// The words that go with it.
    pub status_message: Option<String>,
    /// Seconds.
    pub process_time: Option<f64>,
    /// Address, as text.
    pub ip: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// SDK version as one integer.
    pub version: Option<u64>,
    /// Nanoseconds since 1970.
    pub nonce: Option<u64>,
    /// Names the series of nonces.
    pub uuid: Option<String>,
    /// SS58.
    pub hotkey: Option<String>,
    /// `0x` and 128 hexadecimal digits.
    pub signature: Option<String>,
}

/// Names of a [`TerminalInfo`]'s headers, in the order of its fields.
pub(crate) type TerminalNames = [HeaderName; 10];

pub(crate) const AXON: TerminalNames = [
    HeaderName::from_static("bt_header_axon_status_code"),
    HeaderName::from_static("bt_header_axon_status_message"),
    HeaderName::from_static("bt_header_axon_process_time"),
    HeaderName::from_static("bt_header_axon_ip"),
    HeaderName::from_static("bt_header_axon_port"),
    HeaderName::from_static("bt_header_axon_version"),
    HeaderName::from_static("bt_header_axon_nonce"),
    HeaderName::from_static("bt_header_axon_uuid"),
    HeaderName::from_static("bt_header_axon_hotkey"),
    HeaderName::from_static("bt_header_axon_signature"),
];

pub(crate) const DENDRITE: TerminalNames = [
    HeaderName::from_static("bt_header_dendrite_status_code"),
    HeaderName::from_static("bt_header_dendrite_status_message"),
    HeaderName::from_static("bt_header_dendrite_process_time"),
    HeaderName::from_static("bt_header_dendrite_ip"),
    HeaderName::from_static("bt_header_dendrite_port"),
    HeaderName::from_static("bt_header_dendrite_version"),
    HeaderName::from_static("bt_header_dendrite_nonce"),
    HeaderName::from_static("bt_header_dendrite_uuid"),
    HeaderName::from_static("bt_header_dendrite_hotkey"),
    HeaderName::from_static("bt_header_dendrite_signature"),
];

/// What all requests of a step have in common, computed once.
#[derive(Clone, Debug)]
pub struct Prompting {
    /// `str(float)` of the timeout in seconds.
    timeout: String,
    /// Hash over `messages`, as the class `Prompting` declares.
    body_hash: String,
    /// The end of the body: roles, messages, completion.
    fields: String,
    /// `total_size` of header and body: Python's footprint of the object. Axons read an integer and do nothing with it.
    pub total_size: u64,
}

// === impl Prompting ===

impl Prompting {
    /// Code points that some miners' Python does not know are replaced, see [`portable`].
    #[must_use]
    pub fn new(roles: &[String], messages: &[String], timeout: Duration) -> Self {
        let portable = |texts: &[String]| texts.iter().map(|text| portable(text).into_owned()).collect::<Vec<_>>();
        let (roles, messages) = (portable(roles), portable(messages));
        // Lists of strings always have a JSON form.
        let json = |texts: &[String]| python_json::dumps(&texts).unwrap_or_default();
        Self {
            timeout: str_of_float(timeout.as_secs_f64()),
            body_hash: hash_of_fields([str_of_texts(&messages).as_str()]),
            fields: format!(r#""roles": {}, "messages": {}, "completion": """#, json(&roles), json(&messages)),
            total_size: 0,
        }
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn body_hash(&self) -> &str {
        &self.body_hash
    }

    /// The timeout as Python's `str(float)`, in seconds.
    #[must_use]
    pub fn timeout(&self) -> &str {
        &self.timeout
    }

    /// The class fields, as JSON members.
    pub(crate) fn fields(&self) -> &str {
        &self.fields
    }

    /// Bittensor's headers, in the SDK's order, and the content type.
    #[must_use]
    pub fn headers(&self, dendrite: &TerminalInfo, axon: &TerminalInfo) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(32);
        headers.insert(NAME, HeaderValue::from_static(CLASS));
        insert(&mut headers, TIMEOUT, &self.timeout);
        axon.write_headers(&AXON, &mut headers);
        dendrite.write_headers(&DENDRITE, &mut headers);
        headers.insert(INPUT_ROLES, EMPTY_LIST);
        headers.insert(INPUT_MESSAGES, EMPTY_LIST);
        headers.insert(HEADER_SIZE_NAME, HEADER_SIZE);
        headers.insert(TOTAL_SIZE_NAME, HeaderValue::from(self.total_size));
        insert(&mut headers, BODY_HASH, &self.body_hash);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers
    }

    /// The JSON body.
    #[must_use]
    pub fn body(&self, dendrite: &TerminalInfo, axon: &TerminalInfo) -> String {
        // Numbers and texts always have a JSON form.
        let json = |terminal| python_json::dumps(terminal).unwrap_or_default();
        format!(
            r#"{{"name": "{CLASS}", "timeout": {}, "total_size": {}, "header_size": 0, "dendrite": {}, "axon": {}, "computed_body_hash": "", {}}}"#,
            self.timeout,
            self.total_size,
            json(dendrite),
            json(axon),
            self.fields,
        )
    }
}

/// What a dendrite signs and an axon verifies.
#[must_use]
pub fn signed_message(nonce: u64, dendrite: &str, axon: &str, uuid: &str, body_hash: &str) -> String {
    format!("{nonce}.{dendrite}.{axon}.{uuid}.{body_hash}")
}

/// SHA3-256 over the concatenated hexadecimal SHA3-256 of each field's Python `str`.
#[must_use]
pub fn hash_of_fields<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let mut whole = Sha3_256::new();
    for field in fields {
        whole.update(hex::encode(Sha3_256::digest(field)));
    }
    hex::encode(whole.finalize())
}

/// Inserts what a header can hold: other text (only ever the peer's own) is left out.
pub(crate) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

// === impl TerminalInfo ===

impl TerminalInfo {
    /// The fields that are there, as Python's `str` of them.
    pub(crate) fn write_headers(&self, names: &TerminalNames, headers: &mut HeaderMap) {
        let text = |text: &'_ Option<String>| text.clone().map(Cow::<str>::Owned);
        let number = |number: Option<u64>| number.map(|number| Cow::Owned(number.to_string()));
        let values = [
            number(self.status_code.map(u64::from)),
            text(&self.status_message),
            self.process_time.map(|seconds| Cow::Owned(str_of_float(seconds))),
            text(&self.ip),
            number(self.port.map(u64::from)),
            number(self.version),
            number(self.nonce),
            text(&self.uuid),
            text(&self.hotkey),
            text(&self.signature),
        ];
        for (name, value) in names.iter().zip(values) {
            if let Some(value) = value {
                insert(headers, name.clone(), &value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
