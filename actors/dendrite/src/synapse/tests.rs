//! Our requests against those recorded from the SDKs.

use openvalidators_keys::{HotkeySigner, SIGNATURE_BYTES, verify};

use super::*;

/// A recorded request: request line and headers with lower-case names (case means nothing: RFC 9110, 5.1), and the body.
struct Recorded {
    request_line: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// Headers of the HTTP client, not of Bittensor: aiohttp's name, its default `Accept: */*` (the same as none), the
/// compression it takes and we do not, and what names the server and counts the body, which hyper writes.
const OF_THE_HTTP_CLIENT: [&str; 5] = ["accept", "accept-encoding", "user-agent", "host", "content-length"];

fn recorded(version: &str) -> Recorded {
    let path = format!("{}/../../tests/fixtures/bittensor/http_v{version}/request_0.http", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let request_line = lines.next().unwrap().to_owned();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Recorded { request_line, headers, body: body.to_owned() }
}

impl Recorded {
    fn header(&self, name: &str) -> &str {
        &self.headers.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    fn terminals(&self) -> (TerminalInfo, TerminalInfo) {
        let text = |name: &str| Some(self.header(name).to_owned());
        let number = |name: &str| Some(self.header(name).parse().unwrap());
        let dendrite = TerminalInfo {
            ip: text("bt_header_dendrite_ip"),
            version: number("bt_header_dendrite_version"),
            nonce: number("bt_header_dendrite_nonce"),
            uuid: text("bt_header_dendrite_uuid"),
            hotkey: text("bt_header_dendrite_hotkey"),
            signature: text("bt_header_dendrite_signature"),
            ..TerminalInfo::default()
        };
        let axon = TerminalInfo {
            ip: text("bt_header_axon_ip"),
            port: Some(self.header("bt_header_axon_port").parse().unwrap()),
            hotkey: text("bt_header_axon_hotkey"),
            ..TerminalInfo::default()
        };
        (dendrite, axon)
    }
}

fn prompting(total_size: &str) -> Prompting {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let messages = texts(&["Hello \"world\"", "it's\na \\ test", "café ☃ 😀 \u{200b}\u{7f}"]);
    let mut prompting = Prompting::new(&texts(&["user", "assistant"]), &messages, Duration::from_secs(12));
    prompting.total_size = total_size.parse().unwrap();
    prompting
}

#[test]
fn head_and_body_are_those_of_the_sdks_byte_for_byte() {
    for version in ["6.12.4", "7.4.0", "9.12.2", "10.5.0"] {
        let recorded = recorded(version);
        let (dendrite, axon) = recorded.terminals();
        let ours = prompting(recorded.header("total_size"));
        assert_eq!(recorded.request_line, format!("POST /{CLASS} HTTP/1.1"));
        let head = ours.headers(&dendrite, &axon);
        let head: Vec<_> = head.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
        let mut expected = recorded.headers.clone();
        expected.retain(|(name, _)| !OF_THE_HTTP_CLIENT.contains(&name.as_str()));
        assert_eq!(head, expected, "{version}");
        // Bittensor 6 kept `required_hash_fields` as an ordinary field; no axon asks for it (see the module).
        let expected = recorded.body.replace(r#""required_hash_fields": ["messages"], "#, "");
        assert_eq!(ours.body(&dendrite, &axon), expected, "{version}");
        assert_eq!(version == "6.12.4", expected != recorded.body);
    }
}

#[test]
fn the_bytes_signed_are_those_the_sdks_signed() {
    let alice = HotkeySigner::from_uri("//Alice").unwrap().hotkey();
    for version in ["6.12.4", "7.4.0", "9.12.2", "10.5.0"] {
        let (dendrite, axon) = recorded(version).terminals();
        let message = signed_message(
            dendrite.nonce.unwrap(),
            &dendrite.hotkey.unwrap(),
            &axon.hotkey.unwrap(),
            &dendrite.uuid.unwrap(),
            prompting("0").body_hash(),
        );
        let mut signature = [0; SIGNATURE_BYTES];
        hex::decode_to_slice(&dendrite.signature.unwrap()[2..], &mut signature).unwrap();
        assert!(verify(&alice, message.as_bytes(), &signature), "{version}");
    }
}

#[test]
fn no_fields_hash_to_the_hash_of_nothing() {
    let nothing = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a";
    assert_eq!(hash_of_fields([]), nothing);
}
