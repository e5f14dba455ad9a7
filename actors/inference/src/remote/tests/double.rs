//! A server of raw HTTP/1.1 on a loopback port, which answers as it is told, well or badly.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use openvalidators_runtime::SystemClock;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::remote::model::PROBE;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) body: Value,
}

/// What is done about it.
pub(super) enum Reply {
    /// 200 and this.
    Json(Value),
    /// This status, with these header lines and this body.
    Status(u16, &'static str, String),
    /// 200 and a body that is not what its head says, or no JSON.
    Raw(&'static str),
    /// [`Reply::Json`], after so long.
    Late(Duration, Value),
    /// Nothing, for ever.
    Hang,
    /// A body without an end.
    Endless,
    /// The connection is closed.
    HangUp,
}

/// The server; gone when dropped.
pub(super) struct Double {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    most_at_once: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Double {
    pub(super) async fn serve(answer: impl AsyncAnswer) -> Self {
        Self::serve_at("127.0.0.1:0", answer).await
    }

    /// At an address where one was before.
    pub(super) async fn serve_at(address: &str, answer: impl AsyncAnswer) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, at_once, most_at_once) =
            (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (answer, noted, most) = (Arc::new(answer), seen.clone(), most_at_once.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, noted, most, at_once) = (answer.clone(), noted.clone(), most.clone(), at_once.clone());
                tokio::spawn(async move {
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // A client that goes away is no error here.
                    let _ = converse(stream, &*answer, &noted).await;
                    at_once.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { url, seen, most_at_once, task }
    }

    /// What came so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// What came to `path`, but for what every server is asked before it is believed.
    pub(super) fn asked(&self, path: &str) -> Vec<Value> {
        self.seen().into_iter().filter(|seen| seen.path == path && !seen.is_probe()).map(|seen| seen.body).collect()
    }

    /// The most connections there were at a time.
    pub(super) fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }

    /// Host and port.
    pub(super) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    /// Whether a server is asked before it is believed.
    pub(super) fn is_probe(&self) -> bool {
        [json!([PROBE]), json!([[PROBE]])].contains(&self.body["inputs"])
    }
}

/// An answer to each request.
pub(super) trait AsyncAnswer: Send + Sync + 'static {
    fn answer(&self, seen: &Seen) -> impl Future<Output = Reply> + Send;
}

impl<F: Fn(&Seen) -> Reply + Send + Sync + 'static> AsyncAnswer for F {
    async fn answer(&self, seen: &Seen) -> Reply {
        self(seen)
    }
}

async fn converse(mut stream: TcpStream, answer: &impl AsyncAnswer, noted: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let seen = read(&mut stream).await?;
    noted.lock().push(seen.clone());
    let head = |status: u16, lines: &str, length: usize| {
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{lines}\r\n")
    };
    match answer.answer(&seen).await {
        Reply::Json(value) => {
            let body = value.to_string();
            stream.write_all(format!("{}{body}", head(200, "", body.len())).as_bytes()).await
        }
        Reply::Late(after, value) => {
            use openvalidators_runtime::Clock;
            SystemClock::new().sleep(after).await;
            let body = value.to_string();
            stream.write_all(format!("{}{body}", head(200, "", body.len())).as_bytes()).await
        }
        Reply::Status(status, lines, body) => {
            stream.write_all(format!("{}{body}", head(status, lines, body.len())).as_bytes()).await
        }
        Reply::Raw(text) => stream.write_all(text.as_bytes()).await,
        Reply::Hang => std::future::pending().await,
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n[").await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
        Reply::HangUp => Ok(()),
    }
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let body = serde_json::from_slice(&bytes[end..]).unwrap_or(Value::Null);
    Ok(Seen { method, path, authorization: header("authorization"), body })
}
