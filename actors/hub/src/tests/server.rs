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
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What a server does wrong with one request that wants a body.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Announces everything, sends so many bytes, breaks the connection.
    Truncate(usize),
    /// Answers this status.
    Status(u16),
    /// Answers this status with a header.
    Refuse(u16, &'static str, &'static str),
    /// Serves other content, with another etag, from now on.
    Change(Vec<u8>),
    /// Accepts the request and answers a page of a login portal.
    Portal,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    pub status: u16,
}

/// Headers, and the address of the body.
type Resolved = (Vec<(&'static str, String)>, Option<String>);

/// A file of a repository.
pub struct HubFile<'a> {
    pub name: &'a str,
    pub content: &'a [u8],
    /// Kept as git-lfs keeps it, on another server.
    pub large: bool,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, (Vec<u8>, String)>,
    /// Headers of the hub for a path, and where it sends for the body.
    resolved: BTreeMap<String, Resolved>,
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

    /// Serves a repository as the hub does: its listing, and for a branch and a commit each file, the large ones from another
    /// server.
    pub fn serve_repository(
        &self,
        repository: &str,
        commit: &str,
        branch: &str,
        files: &[HubFile<'_>],
        other: &Server,
    ) {
        let mut siblings = Vec::new();
        for HubFile { name, content, large } in files {
            let etag = if *large { hex::encode(Sha256::digest(content)) } else { git_id(content) };
            let mut sibling = serde_json::json!({"rfilename": name, "size": content.len(), "blobId": git_id(content)});
            if *large {
                sibling["lfs"] = serde_json::json!({"sha256": etag, "size": content.len(), "pointerSize": 134});
                other.serve(&format!("/lfs/{etag}"), *content);
            }
            siblings.push(sibling);
            for revision in [commit, branch] {
                let path = format!("/{repository}/resolve/{revision}/{name}");
                let mut headers = vec![("x-repo-commit", commit.to_owned())];
                if *large {
                    headers.push(("x-linked-etag", format!("\"{etag}\"")));
                    headers.push(("x-linked-size", content.len().to_string()));
                }
                let mut inner = self.inner.lock().unwrap();
                inner.files.insert(path.clone(), (content.to_vec(), format!("\"{etag}\"")));
                inner.resolved.insert(path, (headers, large.then(|| other.url(&format!("/lfs/{etag}")))));
            }
        }
        let listing = serde_json::json!({"id": repository, "sha": commit, "siblings": siblings}).to_string();
        for revision in [commit, branch] {
            self.serve(&format!("/api/models/{repository}/revision/{revision}"), listing.clone());
        }
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
        let head_only = request.method() == hyper::Method::HEAD;
        let ordered = if head_only { format!("HEAD {path}") } else { path.clone() };
        let fault = inner.faults.get_mut(&ordered).and_then(VecDeque::pop_front);
        if let Some(Fault::Change(content)) = &fault {
            inner.files.insert(path.clone(), (content.clone(), "\"changed\"".into()));
        }
        let range = header("range");
        let (extra, elsewhere) = inner.resolved.get(&path).cloned().unwrap_or_default();
        let response = match (&fault, inner.files.get(&path)) {
            (Some(Fault::Refuse(status, name, value)), _) => reply(*status, &[(name, value)], vec![]),
            (Some(Fault::Status(status)), _) => reply(*status, &[], vec![]),
            (Some(Fault::Portal), _) => reply(200, &[("content-type", "text/html")], b"<html>log in</html>".to_vec()),
            (_, None) => reply(404, &[], vec![]),
            (None, Some((_, etag))) if elsewhere.is_some() => {
                let location = elsewhere.unwrap_or_default();
                let mut headers = vec![
                    ("location", location.as_str()),
                    ("etag", "\"of the answer itself\""),
                    ("content-length", "0"),
                ];
                headers.extend(extra.iter().map(|(name, value)| (*name, value.as_str())));
                assert!(!etag.is_empty());
                reply(302, &headers, vec![])
            }
            (fault, Some((content, etag))) => {
                let first: Option<usize> = range
                    .as_ref()
                    .filter(|_| header("if-range").is_none_or(|validator| validator == *etag))
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
                headers.extend(extra);
                let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let status = if first.is_some() { 206 } else { 200 };
                match fault {
                    Some(Fault::Truncate(bytes)) => broken(status, &headers, sent[..*bytes].to_vec()),
                    _ => reply(status, &headers, sent),
                }
            }
        };
        let status = response.status().as_u16();
        inner.seen.push(Seen {
            method: request.method().to_string(),
            path,
            range,
            authorization: header("authorization"),
            status,
        });
        response
    }
}

/// What git calls these contents.
pub fn git_id(content: &[u8]) -> String {
    hex::encode(Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content).finalize())
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
