//! What the tests of both ends share.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{Axon as Advertised, ForwardId, Hotkey, StepId, Uid, dendrite::Query, gating::Routed};
use openvalidators_runtime::{SharedClock, SystemClock};
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
};

use crate::{
    Config, Dendrite, Metrics,
    axon::{Axon, AxonConfig, Forward},
};

pub fn alice() -> Arc<HotkeySigner> {
    Arc::new(HotkeySigner::from_uri("//Alice").unwrap())
}

/// Whom every axon of these tests serves as.
pub fn bob() -> Hotkey {
    HotkeySigner::from_uri("//Bob").unwrap().hotkey()
}

pub fn local() -> Config {
    Config { allow_private_addresses: true, max_body_bytes: 64 * 1_024, ..Config::default() }
}

/// Alice's dendrite on the running runtime.
pub fn dendrite(config: Config, clock: SharedClock) -> (Dendrite, Metrics) {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let dendrite = Dendrite::new(alice(), config, clock, metrics.clone(), Handle::current()).unwrap();
    (dendrite, metrics)
}

pub fn query(addresses: &[SocketAddr], timeout: Duration) -> Query {
    let routed = |(uid, &address): (usize, &SocketAddr)| Routed {
        uid: Uid(uid as u16),
        hotkey: bob(),
        axon: Advertised { address, protocol: 4, version: 0 },
        propensity: 1.0,
        uniform_propensity: None,
    };
    Query {
        step: StepId { forward: ForwardId(1), index: 0 },
        miners: addresses.iter().enumerate().map(routed).collect(),
        roles: Arc::new(["user".to_owned()]),
        messages: Arc::new(["it's \"quoted\"\n\\ café 😀 \u{200b}".to_owned()]),
        timeout,
    }
}

pub async fn serve(forward: impl Forward) -> Axon {
    serve_with(AxonConfig::default(), forward).await
}

pub async fn serve_with(config: AxonConfig, forward: impl Forward) -> Axon {
    Axon::serve(bob(), config, SystemClock::shared(), forward).await.unwrap()
}

/// A server that is no axon: reads a whole request from each connection, then does as told.
pub async fn raw_server<Fut>(behave: impl Fn(TcpStream) -> Fut + Send + 'static) -> SocketAddr
where
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_request(&mut stream).await;
            assert!(head.is_empty() || head.starts_with("POST /Prompting HTTP/1.1"), "{head}");
            tokio::spawn(behave(stream));
        }
    });
    address
}

/// A server that sends these bytes and closes.
pub async fn sends(bytes: impl AsRef<[u8]>) -> SocketAddr {
    let bytes = bytes.as_ref().to_vec();
    raw_server(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            let _ = stream.write_all(&bytes).await;
        }
    })
    .await
}

/// Reads one request by its content length; the whole of it as text.
pub async fn read_request(stream: &mut TcpStream) -> String {
    let mut whole = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(head) = whole.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&whole[..head]).to_ascii_lowercase();
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if whole.len() >= head + 4 + length {
                return String::from_utf8(whole).unwrap();
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&whole).into_owned(),
            Ok(read) => whole.extend_from_slice(&buffer[..read]),
        }
    }
}
