//! What systemd is told (`Type=notify` and `WatchdogSec=`): the datagrams of sd_notify(3), a line `NAME=VALUE` each.
//!
//! The watchdog is fed by progress: a datagram leaves while every part of `/health` gets on, and none while one stands still, so that
//! systemd ends and restarts a validator that lives and works no more. Without `NOTIFY_SOCKET` nothing is told to anybody.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::Arc,
    time::Duration,
};

use openvalidators_messages::{Metagraph, weights::ScoreTable};
use openvalidators_reporting::Health;
use openvalidators_runtime::SharedClock;
use tokio::{sync::watch, task::JoinHandle};

/// How often the status is told where there is no watchdog to feed.
const STATUS_EVERY: Duration = Duration::from_secs(30);

/// The service manager, where there is one.
#[derive(Clone, Default)]
pub struct Service {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// Within this time it wants a sign of life.
    watchdog: Option<Duration>,
}

// === impl Service ===

impl Service {
    /// As the environment names it: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`. Trouble with the socket is told in the log, and the
    /// program goes on.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Self::default() };
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_for_us).map(Duration::from_micros);
        match connect(name.as_encoded_bytes()) {
            Ok(socket) => Self { socket: Some(Arc::new(socket)), watchdog: watchdog.filter(|limit| !limit.is_zero()) },
            Err(error) => {
                tracing::warn!(%error, socket = ?name, "the service manager is told nothing: NOTIFY_SOCKET cannot be used");
                Self::default()
            }
        }
    }

    /// What it does before it is ready.
    pub fn starting(&self) {
        self.tell("STATUS=starting: models, chain, ledger");
    }

    /// Every actor has its state and the forwards begin.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Closing in order.
    pub fn stopping(&self, reason: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS=stopping: {}", reason.replace('\n', " ")));
    }

    /// Tells how it goes until the task is aborted, twice within the watchdog's time; a sign of life only while every part is well.
    pub fn follow(
        &self,
        health: Arc<Health>,
        metagraph: watch::Receiver<Arc<Metagraph>>,
        scores: watch::Receiver<Arc<ScoreTable>>,
        clock: SharedClock,
    ) -> Option<JoinHandle<()>> {
        self.socket.as_ref()?;
        let (service, every) = (self.clone(), self.watchdog.map_or(STATUS_EVERY, |limit| limit / 2));
        Some(tokio::spawn(async move {
            loop {
                let place = format!("step {}, block {}", scores.borrow().sequence, metagraph.borrow().block);
                service.sign_of_life(&health, &place);
                clock.sleep(every).await;
            }
        }))
    }

    fn sign_of_life(&self, health: &Health, place: &str) {
        let report = health.is_live();
        let unwell: Vec<String> =
            report.parts.iter().filter(|(_, is)| *is != "ok").map(|(part, is)| format!("{part}: {is}")).collect();
        if report.ok {
            let alive = if self.watchdog.is_some() { "WATCHDOG=1\n" } else { "" };
            self.tell(&format!("{alive}STATUS={place}"));
        } else {
            let unwell = unwell.join("; ");
            tracing::error!(unwell, "no sign of life is given to the watchdog");
            self.tell(&format!("STATUS={place}; unwell: {unwell}"));
        }
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        let (socket, address) = &**socket;
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, state, "the service manager was not told");
        }
    }
}

/// A path, or with `@` first a name in the abstract namespace.
fn connect(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    use std::os::unix::ffi::OsStrExt;
    let address = match name.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold anything up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn service(watchdog: Option<Duration>) -> (Service, UnixDatagram, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let socket = connect(path.as_os_str().as_encoded_bytes()).unwrap();
        (Service { socket: Some(Arc::new(socket)), watchdog }, manager, folder)
    }

    fn heard(manager: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 512];
        let length = manager.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    #[test]
    fn a_part_that_stands_still_keeps_the_watchdog_hungry() {
        let (service, manager, _folder) = service(Some(Duration::from_secs(2)));
        let is_well = Arc::new(AtomicBool::new(true));
        let look = is_well.clone();
        let health = Health::new()
            .live("ledger", || Ok(()))
            .live("weights", move || if look.load(Ordering::Relaxed) { Ok(()) } else { Err("stuck".to_owned()) });
        service.sign_of_life(&health, "step 7");
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1\nSTATUS=step 7");
        is_well.store(false, Ordering::Relaxed);
        service.sign_of_life(&health, "step 7");
        assert_eq!(heard(&manager).unwrap(), "STATUS=step 7; unwell: weights: stuck");
        is_well.store(true, Ordering::Relaxed);
        service.sign_of_life(&health, "step 8");
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1\nSTATUS=step 8");
    }

    #[test]
    fn a_manager_that_has_gone_or_reads_nothing_holds_nothing_up() {
        let (service, manager, _folder) = service(None);
        for _ in 0..10_000 {
            service.ready();
        }
        drop(manager);
        service.stopping("asked\nby a test");
        Service::default().ready();
    }

    #[test]
    fn abstract_names_are_understood() {
        let name = format!("openvalidators-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let socket = connect(format!("@{name}").as_bytes()).unwrap();
        Service { socket: Some(Arc::new(socket)), watchdog: None }.stopping("a\nb");
        assert_eq!(heard(&manager).unwrap(), "STOPPING=1\nSTATUS=stopping: a b");
    }
}
