//! The miner that does not even speak HTTP: whoever sends it a request gets random bytes.
//!
//! The other kinds misbehave within HTTP and are served by the axon of `actors/dendrite`, which cannot send this.

use std::{io, net::SocketAddr, time::Duration};

use openvalidators_runtime::{Seed, SharedClock, accept_bounded, within};
use rand::RngCore;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// Connections held at once; further ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection lasts at most.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// Longest head of a request that is read before it is answered.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Longest request that is read before it is answered.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Bytes sent for one request.
const GARBAGE_BYTES: usize = 4 * 1024;

/// A listening socket that answers with garbage. Dropped, it closes.
#[derive(Debug)]
pub struct Garbage {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

// === impl Garbage ===

impl Garbage {
    /// Listens on a free loopback port and serves on the current tokio runtime.
    ///
    /// # Errors
    /// When the system has no port or socket left.
    pub async fn serve(seed: Seed, clock: SharedClock) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, serving: tokio::spawn(accept(listener, seed, clock)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Garbage {
    fn drop(&mut self) {
        // The connections belong to the task and end with it.
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, seed: Seed, clock: SharedClock) {
    let (mut connections, mut count) = (JoinSet::new(), 0_u64);
    let serve = |socket| {
        let (clock, this) = (clock.clone(), count);
        count += 1;
        async move {
            // A validator that hangs up is no fault of this miner.
            let _ = within(&*clock, CONNECTION_LIMIT, talk(socket, seed, this)).await;
        }
    };
    match accept_bounded(&listener, MAX_CONNECTIONS, &*clock, &mut connections, serve).await {}
}

async fn talk(mut socket: TcpStream, seed: Seed, count: u64) -> io::Result<()> {
    read_request(&mut socket).await?;
    let mut bytes = vec![0; GARBAGE_BYTES];
    seed.rng("localnet/garbage", &[count]).fill_bytes(&mut bytes);
    // No chance may make it the beginning of "HTTP".
    bytes[0] = 0xff;
    socket.write_all(&bytes).await?;
    socket.shutdown().await
}

/// Reads a request to its end: a socket closed with unread bytes resets the connection, and what was sent may be lost.
async fn read_request(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut request = Vec::new();
    let body_starts = loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if request.len() > MAX_HEAD_BYTES || socket.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&request[..body_starts]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let end = body_starts.saturating_add(length.unwrap_or(0)).min(MAX_REQUEST_BYTES);
    while request.len() < end && socket.read_buf(&mut request).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use openvalidators_runtime::SystemClock;

    use super::*;

    async fn post(address: SocketAddr) -> Vec<u8> {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let body = "x".repeat(100_000);
        let request = format!("POST /Prompting HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn garbage_is_no_http() {
        let miner = Garbage::serve(Seed(1), SystemClock::shared()).await.unwrap();
        let first = post(miner.address()).await;
        assert_eq!(first.len(), GARBAGE_BYTES);
        assert!(!first.starts_with(b"HTTP") && std::str::from_utf8(&first).is_err());
        assert_ne!(first, post(miner.address()).await, "each time other bytes");
    }

    #[tokio::test]
    async fn dropped_it_closes() {
        let miner = Garbage::serve(Seed(1), SystemClock::shared()).await.unwrap();
        let mut socket = TcpStream::connect(miner.address()).await.unwrap();
        socket.write_all(b"GET").await.unwrap();
        drop(miner);
        let ended = within(&SystemClock::new(), Duration::from_secs(5), socket.read(&mut [0])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "a reset or an end, but no longer silence");
    }
}
