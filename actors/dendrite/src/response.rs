//! How a query ended, from what came back or what went wrong. Every byte here is the miner's: nothing is trusted, nothing
//! unbounded is kept.
//!
//! The merge follows the SDK (`process_server_response`, `process_error_message` in `bittensor/core/dendrite.py`): class
//! fields come from the body, status and its words from the headers. The codes of failures without a reply are the SDK's.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode, header::CONTENT_ENCODING};
use openvalidators_messages::QueryOutcome;
use serde::Deserialize;

use crate::{
    python_repr::str_of_float,
    synapse::{AXON, CLASS},
};

/// Longest status message kept, in characters.
pub const MAX_STATUS_MESSAGE_CHARS: usize = 256;

/// The end of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// Which of the closed set.
    pub outcome: QueryOutcome,
    /// The axon's code, or the SDK's for this failure.
    pub status_code: u16,
    /// At most [`MAX_STATUS_MESSAGE_CHARS`], without control characters.
    pub status_message: String,
    /// Empty unless answered.
    pub text: String,
}

/// A reply that came whole and within the limits.
#[derive(Clone, Debug)]
pub struct Received {
    /// Of the reply line.
    pub status: StatusCode,
    /// Within the limits of number and size.
    pub headers: HeaderMap,
    /// Within the limit of size.
    pub body: Bytes,
}

/// Why there is no such reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The deadline of the step.
    TimedOut(Duration),
    /// The address is one we do not query.
    BadAddress(SocketAddr, &'static str),
    /// No connection.
    NoConnection(SocketAddr, String),
    /// The connection broke before the head of the reply.
    Disconnected(String),
    /// It broke within the body.
    CutShort(String),
    /// The bytes were no HTTP, or the head passed its limits.
    BadProtocol(String),
    /// The body passed the limit, given here in bytes.
    TooLarge(usize),
    /// The task that asked ended without a result; ours to mend.
    Internal(String),
}

/// The class fields. As in the SDK, a body without them, or with other types, is no `Prompting`.
#[derive(Deserialize)]
#[allow(dead_code, reason = "roles and messages are read to be checked")]
struct Body {
    roles: Vec<String>,
    messages: Vec<String>,
    #[serde(default)]
    completion: String,
}

/// The body of a refusal.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

// === impl Ending ===

impl Ending {
    pub(crate) fn new(outcome: QueryOutcome, status_code: u16, status_message: &str) -> Self {
        Self { outcome, status_code, status_message: bounded(status_message), text: String::new() }
    }

    pub(crate) fn unparsed(outcome: QueryOutcome, what: &str) -> Self {
        Self::new(outcome, 422, &format!("Failed to parse response: {what}"))
    }

    /// Keeps no completion of more than `limit` characters: nothing of it would earn anything, and a cut one is not what
    /// the miner said.
    pub(crate) fn limited(self, limit: usize) -> Self {
        let found = self.text.chars().count();
        if found <= limit {
            return self;
        }
        Self::unparsed(QueryOutcome::TooLarge, &format!("the completion has {found} characters, more than {limit}"))
    }

    /// Whether the axon has seen this uuid with a greater nonce: a fresh uuid will do.
    pub(crate) fn asks_for_fresh_uuid(&self) -> bool {
        self.status_code == 401 && self.status_message.contains("Nonce is too old, a newer one")
    }
}

impl From<Received> for Ending {
    fn from(reply: Received) -> Self {
        let said = reply.headers.get(&AXON[0]).and_then(|code| code.to_str().ok()?.parse().ok());
        let words = reply.headers.get(&AXON[1]).map(|words| String::from_utf8_lossy(words.as_bytes()));
        if reply.status != StatusCode::OK {
            let words = words
                .map(|words| words.into_owned())
                .or_else(|| serde_json::from_slice::<Refusal>(&reply.body).ok().map(|refusal| refusal.message));
            let words = words.unwrap_or_else(|| reply.status.canonical_reason().unwrap_or("no reason").to_owned());
            return Self::new(outcome_of(reply.status.as_u16()), reply.status.as_u16(), &words);
        }
        // The SDK lets the header overrule the reply line.
        let code: u16 = said.unwrap_or(200);
        let words = words.unwrap_or("Success".into());
        if code != 200 {
            return Self::new(outcome_of(code), code, &words);
        }
        let text = match reply.text() {
            Ok(text) => text,
            Err(what) => return Self::unparsed(QueryOutcome::BadEncoding, what),
        };
        match serde_json::from_str::<Body>(text) {
            Ok(body) => Self { text: body.completion, ..Self::new(QueryOutcome::Answered, 200, &words) },
            Err(error) => Self::unparsed(QueryOutcome::BadBody, &format!("no {CLASS} synapse: {error}")),
        }
    }
}

// === impl Received ===

impl Received {
    /// The body as text, or why it is none.
    pub(crate) fn text(&self) -> Result<&str, &'static str> {
        let encoding = self.headers.get(CONTENT_ENCODING).map(|encoding| encoding.as_bytes());
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
            return Err("a compressed body, which was not asked for");
        }
        std::str::from_utf8(&self.body).map_err(|_| "the body is not UTF-8")
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        let new = Self::new;
        match failure {
            Failure::TimedOut(timeout) => {
                let seconds = str_of_float(timeout.as_secs_f64());
                new(QueryOutcome::TimedOut, 408, &format!("Request timeout after {seconds} seconds"))
            }
            Failure::BadAddress(address, why) => {
                new(QueryOutcome::BadAddress, 503, &format!("Service unavailable at {address}/{CLASS}: {why}"))
            }
            Failure::NoConnection(address, why) => {
                new(QueryOutcome::Unreachable, 503, &format!("Service unavailable at {address}/{CLASS}: {why}"))
            }
            Failure::Disconnected(why) => new(QueryOutcome::Unreachable, 503, &format!("Service disconnected: {why}")),
            Failure::CutShort(why) => new(QueryOutcome::Unreachable, 400, &format!("Payload error: {why}")),
            Failure::BadProtocol(why) => new(QueryOutcome::BadProtocol, 500, &format!("Client error: {why}")),
            Failure::TooLarge(limit) => {
                Self::unparsed(QueryOutcome::TooLarge, &format!("the body is larger than {limit} bytes"))
            }
            Failure::Internal(why) => new(QueryOutcome::Unreachable, 500, &format!("Client error: {why}")),
        }
    }
}

/// The outcome of a status that is not success.
pub(crate) fn outcome_of(status: u16) -> QueryOutcome {
    match status {
        300..400 => QueryOutcome::Redirected,
        400..500 => QueryOutcome::Refused,
        _ => QueryOutcome::Failed,
    }
}

/// Cut, and without what could break a line of a log.
fn bounded(message: &str) -> String {
    message.chars().take(MAX_STATUS_MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn received(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Received {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), hyper::header::HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        Received {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.iter().map(pair).collect(),
            body: Bytes::copy_from_slice(body),
        }
    }

    fn ending(status: u16, headers: &[(&str, &str)], body: &str) -> Ending {
        received(status, headers, body.as_bytes()).into()
    }

    /// Replies of the axons of bittensor 6, 7, 9 and 10.
    #[test]
    fn recorded_replies_are_answers() {
        for version in ["6.12.4", "7.4.0", "9.12.2", "10.5.0"] {
            let path = format!(
                "{}/../../tests/fixtures/bittensor/http_v{version}/response_0.http",
                env!("CARGO_MANIFEST_DIR")
            );
            let bytes = std::fs::read(path).unwrap();
            let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
            let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
            let headers: Vec<_> = head.split("\r\n").skip(1).map(|line| line.split_once(": ").unwrap()).collect();
            let ending: Ending = received(200, &headers, &bytes[split + 4..]).into();
            assert_eq!((ending.outcome, ending.status_code), (QueryOutcome::Answered, 200), "{ending:?}");
            assert_eq!(ending.status_message, "Success");
            assert_eq!(ending.text, "echo: café ☃ 😀 \u{200b}\u{7f}");
        }
    }

    const GOOD: &str = r#"{"roles":["user"],"messages":["hi"],"completion":"yes"}"#;

    #[test]
    fn the_header_overrules_the_reply_line() {
        let ending = ending(200, &[("bt_header_axon_status_code", "403")], GOOD);
        assert_eq!((ending.outcome, ending.status_code, ending.text.as_str()), (QueryOutcome::Refused, 403, ""));
    }

    #[test]
    fn refusals_keep_their_words() {
        let words = r#"{"message":"Forbidden. Key is blacklisted: no."}"#;
        let cases = [
            (401, "{\"message\":\"Not Verified\"}", QueryOutcome::Refused, "Not Verified"),
            (403, words, QueryOutcome::Refused, "Forbidden. Key is blacklisted: no."),
            (404, "nothing here", QueryOutcome::Refused, "Not Found"),
            (500, "", QueryOutcome::Failed, "Internal Server Error"),
            (503, "{}", QueryOutcome::Failed, "Service Unavailable"),
            (302, "", QueryOutcome::Redirected, "Found"),
            (204, "", QueryOutcome::Failed, "No Content"),
            (999, "", QueryOutcome::Failed, "no reason"),
        ];
        for (status, body, outcome, words) in cases {
            let ending = ending(status, &[], body);
            assert_eq!((ending.outcome, ending.status_code, ending.status_message.as_str()), (outcome, status, words));
        }
        let ending = ending(403, &[("bt_header_axon_status_message", "from the header")], words);
        assert_eq!(ending.status_message, "from the header");
    }

    #[test]
    fn a_body_that_is_no_synapse_is_no_answer() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let bad = [
            "",
            "null",
            "[]",
            "{}",
            "{",
            "NaN",
            &deep,
            "\u{feff}{}",
            r#"{"roles":["user"],"messages":["hi"],"completion":null}"#,
            r#"{"roles":["user"],"messages":["hi"],"completion":7}"#,
            r#"{"roles":["user"],"messages":"hi","completion":"x"}"#,
            r#"{"roles":["user"],"messages":["hi"],"completion":"\ud800"}"#,
            r#"{"roles":["user"],"messages":["hi"],"completion":"x","axon":{"process_time":NaN}}"#,
            r#"{"roles":["user"],"messages":["hi"],"completion":"x","completion":"y"}"#,
        ];
        for body in bad {
            let ending = ending(200, &[], body);
            let start: String = body.chars().take(60).collect();
            assert_eq!((ending.outcome, ending.status_code), (QueryOutcome::BadBody, 422), "{start}");
            assert!(ending.status_message.chars().count() <= MAX_STATUS_MESSAGE_CHARS);
        }
        let ending: Ending = received(200, &[], b"{\"roles\":[],\"messages\":[],\"completion\":\"\xff\"}").into();
        assert_eq!(ending.outcome, QueryOutcome::BadEncoding);
        let ending: Ending = received(200, &[("content-encoding", "gzip")], GOOD.as_bytes()).into();
        assert_eq!(ending.outcome, QueryOutcome::BadEncoding);
    }

    #[test]
    fn odd_texts_are_texts() {
        let odd = "\0\u{202e}\u{200b}".to_owned() + &"e\u{301}".repeat(50_000);
        let body = serde_json::json!({"roles": ["user"], "messages": ["hi"], "completion": odd}).to_string();
        let ending = ending(200, &[], &body);
        assert_eq!((ending.outcome, ending.text), (QueryOutcome::Answered, odd));
        // Nesting is skipped, not descended, where nothing is read.
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(r#"{{"roles":[],"messages":[],"completion":"x","more":{deep}}}"#);
        assert_eq!(Ending::from(received(200, &[], body.as_bytes())).text, "x");
    }

    #[test]
    fn status_messages_are_bounded_and_fit_on_a_line() {
        let ending = ending(500, &[("bt_header_axon_status_message", &"é\t".repeat(4_000))], "");
        assert_eq!(ending.status_message.chars().count(), MAX_STATUS_MESSAGE_CHARS);
        assert!(!ending.status_message.contains('\t'));
        let failure: Ending = Failure::TimedOut(Duration::from_secs(12)).into();
        assert_eq!(failure.status_message, "Request timeout after 12.0 seconds");
    }

    proptest! {
        #[test]
        fn any_reply_has_an_ending(
            status in 100_u16..1_000,
            body in prop::collection::vec(any::<u8>(), 0..400),
            code in "\\PC{0,6}",
            words in "\\PC{0,400}",
        ) {
            let headers = [("bt_header_axon_status_code", code.as_str()), ("bt_header_axon_status_message", &words)];
            let ending: Ending = received(status, &headers, &body).into();
            prop_assert!(ending.status_message.chars().count() <= MAX_STATUS_MESSAGE_CHARS);
            prop_assert!(ending.outcome == QueryOutcome::Answered || ending.text.is_empty());
        }

        #[test]
        fn any_json_has_an_ending(completion in ".*", extra: String, number: f64) {
            let value = serde_json::json!({
                "roles": [extra], "messages": [extra], "completion": completion, "axon": {"process_time": number},
            });
            let ending = ending(200, &[], &value.to_string());
            prop_assert_eq!(ending.outcome, QueryOutcome::Answered);
            prop_assert_eq!(ending.text, completion);
        }
    }
}
