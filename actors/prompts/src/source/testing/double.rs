//! A double of the hub's endpoints, and of the storage it sends to, on a loopback port; with faults to order.
//!
//! Made from what the hub documents: `GET /api/datasets/NAME/revision/REVISION` answers commit and files;
//! `GET /datasets/NAME/resolve/COMMIT/FILE` redirects to another host; that one serves ranges, with an `ETag`. Sources:
//! `HfApi.dataset_info` and `hf_hub_download` of `huggingface_hub`, <https://huggingface.co/docs/dataset-viewer/parquet>.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;

type Body = BoxBody<Bytes, io::Error>;

/// What a server does wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers a status, with a header.
    Refuse(u16, &'static str, &'static str),
    /// Announces everything, sends so many bytes, breaks the connection.
    Truncate(usize),
    /// Serves other content, with another etag, from now on.
    Change(Vec<u8>),
    /// Answers the page of a login.
    Page,
    /// Answers after so long.
    Slow(Duration),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Without the query.
    pub path: String,
    /// The header.
    pub range: Option<String>,
    /// The header.
    pub authorization: Option<String>,
    /// Bytes of the body.
    pub sent: usize,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, (Vec<u8>, usize)>,
    elsewhere: BTreeMap<String, String>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
}

/// A server. It ends with the runtime it was started in.
#[derive(Clone)]
pub struct Double {
    inner: Arc<Mutex<Inner>>,
    dead: Arc<AtomicBool>,
    address: SocketAddr,
}

impl Double {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let double = Self { inner: Arc::default(), dead: Arc::default(), address };
        let serving = double.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if serving.is_dead() {
                    continue;
                }
                let double = serving.clone();
                let service = service_fn(move |request| {
                    let double = double.clone();
                    // An error closes the connection.
                    async move {
                        if double.is_dead() { Err(io::Error::other("dead")) } else { Ok(double.answer(&request).await) }
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        double
    }

    /// Closes every connection before a word is said, until it is to live again.
    pub fn die(&self, dead: bool) {
        self.dead.store(dead, Ordering::SeqCst);
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Where a path of it is.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Serves a file.
    pub fn serve(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.inner.lock().unwrap().files.insert(path.to_owned(), (content.into(), 0));
    }

    /// Serves a dataset as the hub does, its files from `storage`.
    pub fn serve_dataset(&self, name: &str, revision: &str, commit: &str, files: &[(&str, Vec<u8>)], storage: &Double) {
        let siblings: Vec<_> = files.iter().map(|(name, _)| serde_json::json!({"rfilename": name})).collect();
        let listing = serde_json::json!({"id": name, "sha": commit, "siblings": siblings}).to_string();
        for revision in [revision, commit] {
            self.serve(&format!("/api/datasets/{name}/revision/{}", revision.replace('/', "%2F")), listing.clone());
        }
        for (file, content) in files {
            let path = format!("/storage/{commit}/{file}");
            storage.serve(&path, content.clone());
            let resolve = format!("/datasets/{name}/resolve/{commit}/{file}");
            self.inner.lock().unwrap().elsewhere.insert(resolve, storage.url(&path));
        }
    }

    /// Orders a fault for the next request of this path; several wait in line.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.inner.lock().unwrap().faults.entry(path.to_owned()).or_default().push_back(fault);
    }

    /// The requests that were answered.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    #[allow(clippy::disallowed_methods, reason = "a slow server is slow by the machine's clock")]
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let fault = self.inner.lock().unwrap().faults.get_mut(&path).and_then(VecDeque::pop_front);
        if let Some(Fault::Slow(time)) = fault {
            tokio::time::sleep(time).await;
        }
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let range = header("range");
        let mut inner = self.inner.lock().unwrap();
        if let Some(Fault::Change(content)) = &fault {
            let version = inner.files.get(&path).map_or(0, |(_, version)| version + 1);
            inner.files.insert(path.clone(), (content.clone(), version));
        }
        let mut sent = 0;
        let response = match (&fault, inner.elsewhere.get(&path), inner.files.get(&path)) {
            (Some(Fault::Refuse(status, name, value)), ..) => reply(*status, &[(name, (*value).to_owned())], vec![]),
            (Some(Fault::Page), ..) => {
                reply(200, &[("content-type", "text/html".to_owned())], b"<html>log in</html>".to_vec())
            }
            (_, Some(location), _) => reply(302, &[("location", location.clone())], vec![]),
            (_, _, None) => reply(404, &[], vec![]),
            (fault, _, Some((content, version))) => {
                let asked = range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
                let mut headers = vec![("etag", format!("\"{path}-{version}\""))];
                let (status, part) = match asked {
                    Some(_) if content.is_empty() => {
                        headers.push(("content-range", "bytes */0".to_owned()));
                        (416, &content[..])
                    }
                    Some((first, last)) => {
                        let first: usize = first.parse().unwrap();
                        let end = (last.parse::<usize>().unwrap() + 1).min(content.len());
                        headers.push(("content-range", format!("bytes {first}-{}/{}", end - 1, content.len())));
                        (206, &content[first..end])
                    }
                    None => (200, &content[..]),
                };
                sent = part.len();
                match fault {
                    Some(Fault::Truncate(bytes)) => {
                        headers.push(("content-length", part.len().to_string()));
                        broken(status, &headers, part[..*bytes].to_vec())
                    }
                    _ => reply(status, &headers, part.to_vec()),
                }
            }
        };
        inner.seen.push(Seen { path, range, authorization: header("authorization"), sent });
        response
    }
}

fn reply(status: u16, headers: &[(&str, String)], body: Vec<u8>) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed();
    head(status, headers).body(body).unwrap()
}

fn head(status: u16, headers: &[(&str, String)]) -> hyper::http::response::Builder {
    headers.iter().fold(Response::builder().status(status), |head, (name, value)| head.header(*name, value))
}

/// Sends a part and then fails, which makes the server close the connection in the middle of the body.
fn broken(status: u16, headers: &[(&str, String)], part: Vec<u8>) -> Response<Body> {
    let cut = async {
        tokio::task::yield_now().await;
        Err(io::Error::other("the line was cut"))
    };
    let frames = futures::stream::iter([Ok(Frame::data(Bytes::from(part)))]).chain(futures::stream::once(cut));
    head(status, headers).body(BodyExt::boxed(StreamBody::new(frames))).unwrap()
}
