//! A range of bytes of a file over HTTP: the whole range, or an error.

use std::{cell::Cell, ops::Range};

use bytes::Bytes;
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_TYPE, ETAG, RANGE},
};

use crate::{
    config::Token,
    download::{Downloader, Failure, Trouble, accepted, because, content_range, lasting, passing, with_token},
};

/// The bytes asked for, and what the server says of the file they are of.
pub(crate) struct Part {
    pub bytes: Bytes,
    /// The size of the whole file.
    pub total: u64,
    /// The `ETag`, if it is a strong one.
    pub etag: Option<String>,
}

/// A range that could not be had.
pub(crate) struct NoPart {
    pub failure: Failure,
    /// Asking again would not help.
    pub lasting: bool,
}

impl Downloader<'_> {
    /// Fetches a range, cut at the end of the file. Each attempt fetches all of it.
    pub async fn range(&self, url: Url, token: Option<&Token>, range: Range<u64>) -> Result<Part, NoPart> {
        let lasts = Cell::new(false);
        let part = self.patiently(async || {
            let part = self.range_once(url.clone(), token, range.clone()).await;
            lasts.set(matches!(part, Err(Trouble::Lasting(_))));
            part
        });
        part.await.map_err(|failure| NoPart { failure, lasting: lasts.get() })
    }

    async fn range_once(&self, url: Url, token: Option<&Token>, range: Range<u64>) -> Result<Part, Trouble> {
        let asked = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let mut response = accepted(with_token(self.client.get(url).header(RANGE, &asked), token).send().await)?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let etag = header(ETAG).filter(|etag| !etag.starts_with("W/")).map(str::to_owned);
        let total = match response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(&response) {
                Some((first, Some(total))) if first == range.start => total,
                _ => return Err(passing(format!("asked for {asked}, it answered another range"))),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => return empty(&response, &asked),
            _ if header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")) => {
                return Err(passing("it answered a web page instead of the file; is a login between?".into()));
            }
            status => match response.content_length() {
                // All of a small file is as good.
                Some(all) if range.start == 0 && all <= range.end => all,
                _ => return Err(lasting(format!("it serves no ranges: asked for {asked}, it answered {status}"))),
            },
        };
        let expected = range.end.min(total).saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
        while let Some(chunk) = response.chunk().await.map_err(|error| passing(because(&error)))? {
            if bytes.len() as u64 + chunk.len() as u64 > expected {
                return Err(passing(format!("asked for {asked}, it sends more")));
            }
            bytes.extend_from_slice(&chunk);
        }
        if (bytes.len() as u64) < expected {
            return Err(passing(format!("asked for {asked}, it ended after {} bytes", bytes.len())));
        }
        Ok(Part { bytes: bytes.into(), total, etag })
    }
}

/// An empty file has no first byte (RFC 9110, 14.4: `Content-Range: bytes */0`).
fn empty(response: &Response, asked: &str) -> Result<Part, Trouble> {
    let range = response.headers().get(reqwest::header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    match range {
        Some("bytes */0") => Ok(Part { bytes: Bytes::new(), total: 0, etag: None }),
        _ => Err(passing(format!("asked for {asked}, it says the file is shorter"))),
    }
}
