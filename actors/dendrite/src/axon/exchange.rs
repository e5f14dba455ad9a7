//! One request and its reply.

use std::{fmt, future::pending, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use openvalidators_keys::ss58;
use openvalidators_messages::Hotkey;
use openvalidators_runtime::{SharedClock, within};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    AxonRequest, Forward, Reply, forward_safely,
    reply::{ReplyBody, endless, whole},
    verify::Verifier,
};
use crate::{
    python_repr::{str_of_float, str_of_texts},
    synapse::{
        AXON, BODY_HASH, CLASS, DENDRITE, INPUT_MESSAGES, INPUT_ROLES, NAME, PING, TIMEOUT, TerminalInfo,
        hash_of_fields, insert,
    },
};

/// The SDK's default, for requests that name none.
const DEFAULT_TIMEOUT_SECONDS: f64 = 12.0;

/// Longest piece of a request that is repeated in a refusal, in characters.
const MAX_ECHO_CHARS: usize = 64;

/// What it takes to answer.
pub(super) struct Exchange {
    pub verifier: Verifier,
    /// Nothing where pings alone are answered.
    pub forward: Option<Box<dyn Forward>>,
    pub clock: SharedClock,
    pub max_body_bytes: usize,
    pub read_timeout: Duration,
}

/// The connection is to be closed without a reply.
#[derive(Debug)]
pub(super) struct HungUp;

/// A refusal on the way to the forward function.
struct Refused {
    code: u16,
    message: String,
}

/// Who is verified to have sent a request.
struct Sender {
    hotkey: Hotkey,
    timeout: Duration,
}

/// What the headers say.
struct Presented {
    dendrite: TerminalInfo,
    timeout_seconds: f64,
    body_hash: String,
}

/// A synapse as a body.
#[derive(Serialize, Deserialize)]
struct Synapse<Fields> {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    timeout: Option<f64>,
    #[serde(default)]
    total_size: Option<u64>,
    #[serde(default)]
    header_size: Option<u64>,
    #[serde(default)]
    dendrite: TerminalInfo,
    #[serde(default)]
    axon: TerminalInfo,
    #[serde(default)]
    computed_body_hash: String,
    #[serde(flatten)]
    fields: Fields,
}

/// What a class adds to the base class.
trait Class: Serialize + DeserializeOwned {
    /// Its name, which is the path.
    const NAME: &'static str;

    /// Whether the headers name the fields that have no default.
    fn is_named_in(headers: &HeaderMap) -> bool;

    /// The hash that is signed.
    fn body_hash(&self) -> String;
}

/// The base class: a ping.
#[derive(Serialize, Deserialize)]
struct Ping {}

/// The class of this subnet.
#[derive(Serialize, Deserialize)]
struct Prompted {
    roles: Vec<String>,
    messages: Vec<String>,
    #[serde(default)]
    completion: String,
}

impl Class for Ping {
    const NAME: &'static str = PING;

    fn is_named_in(_: &HeaderMap) -> bool {
        true
    }

    fn body_hash(&self) -> String {
        hash_of_fields([])
    }
}

impl Class for Prompted {
    const NAME: &'static str = CLASS;

    fn is_named_in(headers: &HeaderMap) -> bool {
        headers.contains_key(INPUT_ROLES) && headers.contains_key(INPUT_MESSAGES)
    }

    fn body_hash(&self) -> String {
        hash_of_fields([str_of_texts(&self.messages).as_str()])
    }
}

// === impl Exchange ===

impl Exchange {
    pub async fn handle(&self, request: Request<Incoming>) -> Result<Response<ReplyBody>, HungUp> {
        let started = self.clock.now();
        let seconds = || self.clock.now().saturating_sub(started).as_secs_f64();
        let name = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        match (name.as_str(), &self.forward) {
            (PING, _) => Ok(match self.take::<Ping>(request).await {
                Ok((synapse, _)) => synapse.into_response(seconds()),
                Err(refused) => refused.into_response(PING, seconds()),
            }),
            (CLASS, Some(forward)) => self.prompted(forward.as_ref(), request, seconds).await,
            _ => Ok(self.unknown(&name).into_response(CLASS, seconds())),
        }
    }

    async fn prompted(
        &self,
        forward: &dyn Forward,
        request: Request<Incoming>,
        seconds: impl Fn() -> f64,
    ) -> Result<Response<ReplyBody>, HungUp> {
        let (mut synapse, sender) = match self.take::<Prompted>(request).await {
            Ok(taken) => taken,
            Err(refused) => return Ok(refused.into_response(CLASS, seconds())),
        };
        let Prompted { roles, messages, .. } = &synapse.fields;
        let (roles, messages) = (roles.clone(), messages.clone());
        let request = AxonRequest { dendrite: sender.hotkey, roles, messages, timeout: sender.timeout };
        match forward_safely(forward, request).await {
            None => Ok(internal("the forward function panicked").into_response(CLASS, seconds())),
            Some(Reply::Completion(completion)) => {
                synapse.fields.completion = completion;
                Ok(synapse.into_response(seconds()))
            }
            Some(Reply::Status { code, message }) => Ok(Refused { code, message }.into_response(CLASS, seconds())),
            Some(Reply::Raw(raw)) => Ok(raw.map(whole)),
            Some(Reply::Endless) => Ok(Response::new(endless())),
            Some(Reply::Never) => pending().await,
            Some(Reply::HangUp) => Err(HungUp),
        }
    }

    fn unknown(&self, name: &str) -> Refused {
        let name: String = name.chars().take(MAX_ECHO_CHARS).collect();
        let available = if self.forward.is_some() { format!("'{PING}', '{CLASS}'") } else { format!("'{PING}'") };
        Refused { code: 404, message: format!("Synapse name '{name}' not found. Available synapses [{available}]") }
    }

    /// Blacklist, verification and integrity, in the SDK's order.
    async fn take<C: Class>(&self, request: Request<Incoming>) -> Result<(Synapse<C>, Sender), Refused> {
        if !C::is_named_in(request.headers()) {
            return Err(internal("the headers do not name the required fields"));
        }
        let presented = Presented::read(request.headers())?;
        // The claim of the header; it is worth nothing until verified, but who is blacklisted costs no signature check.
        let claimed = presented.dendrite.hotkey.as_deref().and_then(|address| ss58::decode(address).ok());
        let blacklisted = claimed.and_then(|hotkey| self.forward.as_ref()?.blacklist(&hotkey));
        if let Some(reason) = blacklisted {
            return Err(Refused { code: 403, message: format!("Forbidden. Key is blacklisted: {reason}.") });
        }
        let timeout = Duration::try_from_secs_f64(presented.timeout_seconds)
            .map_err(|_| internal("the timeout is no duration"))?;
        let hotkey = self
            .verifier
            .verify(&presented.dendrite, timeout, &presented.body_hash)
            .map_err(|why| Refused { code: 401, message: format!("Not Verified with error: {why}") })?;
        let body = self.read(request.into_body()).await?;
        let synapse: Synapse<C> = serde_json::from_slice(&body).map_err(|error| internal(&error.to_string()))?;
        if synapse.fields.body_hash() != presented.body_hash {
            return Err(internal("the body's hash is not the signed one"));
        }
        Ok((synapse, Sender { hotkey, timeout }))
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Refused> {
        let whole = Limited::new(body, self.max_body_bytes).collect();
        let read = within(&*self.clock, self.read_timeout, whole)
            .await
            .map_err(|_| Refused { code: 408, message: "The body did not come in time".to_owned() })?;
        read.map(|collected| collected.to_bytes()).map_err(|error| {
            if error.is::<LengthLimitError>() {
                let message = format!("The body is larger than {} bytes", self.max_body_bytes);
                return Refused { code: 413, message };
            }
            Refused { code: 400, message: "The body is cut short".to_owned() }
        })
    }
}

// === impl Presented ===

impl Presented {
    /// Fails where the SDK cannot build its synapse from the headers.
    fn read(headers: &HeaderMap) -> Result<Self, Refused> {
        fn parsed<T: std::str::FromStr>(headers: &HeaderMap, name: &HeaderName) -> Result<Option<T>, Refused> {
            let Some(value) = headers.get(name) else { return Ok(None) };
            let value = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            value.map(Some).ok_or_else(|| internal(&format!("the header {name} cannot be read")))
        }
        let [_, _, _, ip, port, version, nonce, uuid, hotkey, signature] = &DENDRITE;
        let dendrite = TerminalInfo {
            ip: parsed(headers, ip)?,
            port: parsed(headers, port)?,
            version: parsed(headers, version)?,
            nonce: parsed(headers, nonce)?,
            uuid: parsed(headers, uuid)?,
            hotkey: parsed(headers, hotkey)?,
            signature: parsed(headers, signature)?,
            ..TerminalInfo::default()
        };
        let timeout_seconds = parsed(headers, &TIMEOUT)?.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        // Python's word for a header that is not there.
        let body_hash = parsed(headers, &BODY_HASH)?.unwrap_or_else(|| "None".to_owned());
        Ok(Self { dendrite, timeout_seconds, body_hash })
    }
}

// === impl Synapse ===

impl<C: Class> Synapse<C> {
    fn into_response(mut self, seconds: f64) -> Response<ReplyBody> {
        self.name.get_or_insert_with(|| C::NAME.to_owned());
        self.axon.status_code = Some(200);
        self.axon.status_message = Some("Success".to_owned());
        self.axon.process_time = Some(seconds);
        // Numbers and texts always have a JSON form.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(whole(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(NAME, HeaderValue::from_static(C::NAME));
        if let Some(timeout) = self.timeout {
            insert(headers, TIMEOUT, &str_of_float(timeout));
        }
        self.axon.write_headers(&AXON, headers);
        self.dendrite.write_headers(&DENDRITE, headers);
        insert(headers, BODY_HASH, &self.fields.body_hash());
        response
    }
}

// === impl Refused ===

impl Refused {
    fn into_response(self, name: &'static str, seconds: f64) -> Response<ReplyBody> {
        let body = serde_json::json!({ "message": self.message }).to_string();
        let mut response = Response::new(whole(body));
        *response.status_mut() = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let axon = TerminalInfo {
            status_code: Some(self.code),
            status_message: Some(self.message),
            process_time: Some(seconds),
            ..TerminalInfo::default()
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(NAME, HeaderValue::from_static(name));
        axon.write_headers(&AXON, headers);
        response
    }
}

/// What went wrong goes to our log alone, as in the SDK; the number joins the two.
fn internal(what: &str) -> Refused {
    let id = Uuid::new_v4();
    tracing::warn!(%id, what, "a request to the axon failed");
    Refused { code: 500, message: format!("Internal Server Error #{id}") }
}

// === impl HungUp ===

impl fmt::Display for HungUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hung up without a reply")
    }
}

impl std::error::Error for HungUp {}
