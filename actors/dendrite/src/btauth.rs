//! `btauth/1`, the wire of bittensor 11: any HTTP request, signed in a handful of headers (`bittensor/http_auth.py`).
//!
//! The signature covers method, path, body, nonce and both hotkeys, so nothing of it can be changed, sent to somebody else
//! or, within the receiver's window of ten seconds, sent twice. The protocol says nothing about bodies. Ours are those of
//! the `Prompting` synapse: `{"roles": […], "messages": […], "completion": "", "timeout": …}`, answered by
//! `{"completion": "…"}`. **Replies are signed by nobody**, as on the other wire.

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use openvalidators_messages::QueryOutcome;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    response::{Ending, Received, outcome_of},
    signing::Signing,
    synapse::{Prompting, insert},
};

/// The first line of what is signed.
pub const PROTOCOL: &str = "btauth/1";

/// The scheme of Bittensor's hotkeys; a request that names none means this one.
const SCHEME: &str = "sr25519";

pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-bittensor-version");
pub(crate) const HOTKEY: HeaderName = HeaderName::from_static("x-bittensor-hotkey");
const RECEIVER: HeaderName = HeaderName::from_static("x-bittensor-receiver");
pub(crate) const NONCE: HeaderName = HeaderName::from_static("x-bittensor-nonce");
pub(crate) const SIGNATURE: HeaderName = HeaderName::from_static("x-bittensor-signature");

/// The body of an answer; more fields do no harm.
#[derive(Deserialize)]
struct Answer {
    completion: String,
}

/// The body of a refusal: as the SDK's axon writes it, or as web frameworks do.
#[derive(Deserialize)]
struct Refusal {
    #[serde(alias = "detail", alias = "error")]
    message: String,
}

/// What a sender signs and a receiver verifies.
#[must_use]
pub fn payload(method: &str, path: &str, body: &[u8], nonce: u64, sender: &str, receiver: &str) -> String {
    let digest = hex::encode(Sha256::digest(body));
    format!("{PROTOCOL}\n{SCHEME}\n{method}\n{path}\n{digest}\n{nonce}\n{sender}\n{receiver}")
}

/// The JSON body of a request.
pub(crate) fn body(prompting: &Prompting) -> String {
    format!(r#"{{{}, "timeout": {}}}"#, prompting.fields(), prompting.timeout())
}

/// The headers of a request that is about to be sent: each is good for one sending.
pub(crate) fn headers(signing: &Signing, receiver: &str, method: &str, path: &str, body: &str) -> HeaderMap {
    let sender = signing.address();
    let sign = |nonce| payload(method, path, body.as_bytes(), nonce, sender, receiver);
    let (nonce, signature) = signing.sign_fresh(sign);
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(VERSION, HeaderValue::from_static("1"));
    insert(&mut headers, HOTKEY, sender);
    insert(&mut headers, RECEIVER, receiver);
    headers.insert(NONCE, HeaderValue::from(nonce));
    insert(&mut headers, SIGNATURE, &signature);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// How a request ended.
pub(crate) fn ending(reply: &Received) -> Ending {
    let status = reply.status.as_u16();
    if status != 200 {
        let words = reply.text().ok().and_then(|text| serde_json::from_str::<Refusal>(text).ok());
        let words =
            words.map_or_else(|| reply.status.canonical_reason().unwrap_or("no reason").to_owned(), |r| r.message);
        return Ending::new(outcome_of(status), status, &words);
    }
    let text = match reply.text() {
        Ok(text) => text,
        Err(what) => return Ending::unparsed(QueryOutcome::BadEncoding, what),
    };
    match serde_json::from_str::<Answer>(text) {
        Ok(answer) => Ending { text: answer.completion, ..Ending::new(QueryOutcome::Answered, 200, "Success") },
        Err(error) => Ending::unparsed(QueryOutcome::BadBody, &format!("no object with a completion: {error}")),
    }
}

#[cfg(test)]
mod tests;
