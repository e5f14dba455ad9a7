//! A hub, an index and a file server on a loopback port, with faults to order.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;

/// What a server does wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Announces everything, sends so many bytes, breaks the connection.
    Truncate(usize),
    /// Answers this status.
    Status(u16),
    /// Serves other content, with another etag, from now on.
    Change(Vec<u8>),
    /// Accepts the request and answers a page of a login portal.
    Portal,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    pub status: u16,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, (Vec<u8>, String)>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
}

#[derive(Clone)]
pub struct Server {
    inner: Arc<Mutex<Inner>>,
    pub address: SocketAddr,
}

impl Server {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { inner: Arc::default(), address: listener.local_addr().unwrap() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(&request)) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn serve(&self, path: &str, content: impl Into<Vec<u8>>) {
        let mut inner = self.inner.lock().unwrap();
        let etag = format!("\"{}\"", inner.files.len());
        inner.files.insert(path.to_owned(), (content.into(), etag));
    }

    /// Orders a fault for the next request of this path; several wait in line.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.inner.lock().unwrap().faults.entry(path.to_owned()).or_default().push_back(fault);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<BoxBody<Bytes, std::io::Error>> {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let path = request.uri().path().to_owned();
        let mut inner = self.inner.lock().unwrap();
        let fault = inner.faults.get_mut(&path).and_then(VecDeque::pop_front);
        if let Some(Fault::Change(content)) = &fault {
            inner.files.insert(path.clone(), (content.clone(), "\"changed\"".into()));
        }
        let range = header("range");
        let response = match (&fault, inner.files.get(&path)) {
            (Some(Fault::Status(status)), _) => reply(*status, &[], vec![]),
            (Some(Fault::Portal), _) => reply(200, &[("content-type", "text/html")], b"<html>log in</html>".to_vec()),
            (_, None) => reply(404, &[], vec![]),
            (fault, Some((content, etag))) => {
                let first: Option<usize> = range
                    .as_ref()
                    .filter(|_| header("if-range").as_ref() == Some(etag))
                    .map(|range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap());
                let sent = content[first.unwrap_or(0)..].to_vec();
                let mut headers = vec![("etag", etag.clone()), ("content-length", sent.len().to_string())];
                if path.starts_with("/simple/") {
                    assert!(header("accept").unwrap().contains("vnd.pypi.simple.v1+json"));
                }
                if let Some(first) = first {
                    let range = format!("bytes {first}-{}/{}", content.len() - 1, content.len());
                    headers.push(("content-range", range));
                }
                let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let status = if first.is_some() { 206 } else { 200 };
                match fault {
                    Some(Fault::Truncate(bytes)) => broken(status, &headers, sent[..*bytes].to_vec()),
                    _ => reply(status, &headers, sent),
                }
            }
        };
        let status = response.status().as_u16();
        inner.seen.push(Seen { path, range, authorization: header("authorization"), status });
        response
    }
}

fn head(status: u16, headers: &[(&str, &str)]) -> hyper::http::response::Builder {
    let builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value))
}

fn reply(status: u16, headers: &[(&str, &str)], body: Vec<u8>) -> Response<BoxBody<Bytes, std::io::Error>> {
    head(status, headers).body(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed()).unwrap()
}

/// Sends a part and then fails, which makes the server close the connection in the middle of the body.
fn broken(status: u16, headers: &[(&str, &str)], part: Vec<u8>) -> Response<BoxBody<Bytes, std::io::Error>> {
    let cut = async {
        // The part is on its way first.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("the line was cut"))
    };
    let frames = futures::stream::iter([Ok(Frame::data(Bytes::from(part)))]).chain(futures::stream::once(cut));
    head(status, headers).body(BodyExt::boxed(StreamBody::new(frames))).unwrap()
}

/// A wheel: a zip archive with these members.
pub fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, content) in members {
        archive.start_file(*name, options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}
