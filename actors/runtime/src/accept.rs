//! Accepting connections, so many at once.

use std::{convert::Infallible, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::Clock;

/// After `accept` failed (too many open files, as a rule), before it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever and serves each connection in a task of its own, `limit` at once (at least one); further ones wait in
/// the system's queue. Dropped, it accepts no more; those being served stay in `connections`, to be waited for or dropped.
pub async fn accept_bounded<Serving>(
    listener: &TcpListener,
    limit: usize,
    clock: &dyn Clock,
    connections: &mut JoinSet<()>,
    mut serve: impl FnMut(TcpStream) -> Serving,
) -> Infallible
where
    Serving: Future<Output = ()> + Send + 'static,
{
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limit.max(1) => match accepted {
                Ok((socket, _)) => drop(connections.spawn(serve(socket))),
                Err(error) => {
                    tracing::warn!(%error, at = ?listener.local_addr().ok(), "could not accept a connection");
                    clock.sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::{SystemClock, within};

    #[tokio::test]
    async fn no_more_than_the_limit_are_served_at_once_and_the_next_is_served_when_one_ends() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, clock) = (Arc::new(AtomicUsize::new(0)), SystemClock::new());
        let count = begun.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            accept_bounded(&listener, 2, &SystemClock::new(), &mut connections, |mut socket| {
                let count = count.clone();
                async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = socket.read(&mut [0]).await;
                }
            })
            .await
        });
        let reached = async |wanted: usize| {
            while begun.load(Ordering::SeqCst) < wanted {
                clock.sleep(Duration::from_millis(1)).await;
            }
        };
        let patience = Duration::from_secs(10);
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        within(&clock, patience, reached(2)).await.unwrap();
        assert!(within(&clock, Duration::from_millis(50), reached(3)).await.is_err(), "the third waits outside");
        drop(clients.remove(0));
        within(&clock, patience, reached(3)).await.unwrap();
        accepting.abort();
    }
}
