//! Subtensor's own runtime in a process on this machine, from a raw chain spec on the disk (`tests/README.md`).

use std::{
    ffi::OsString,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use openvalidators_runtime::{Clock, SystemClock};

/// The raw chain spec to run.
const SPEC: &str = "SUBTENSOR_CHAIN_SPEC";
/// How often it is looked whether the node listens, each a second: it compiles the runtime first.
const MOST_LOOKS: usize = 300;

/// A node with one subnet. Dropped, it is gone.
pub(crate) struct Chopsticks {
    process: Child,
    url: String,
    /// The subnet on which `//Charlie` may set weights.
    pub(crate) netuid: u16,
}

impl Chopsticks {
    /// `None`, with a printed reason, where there is no spec or no node to run it.
    pub(crate) async fn start() -> Option<Self> {
        let Some(spec) = std::env::var_os(SPEC) else {
            println!("skipped: {SPEC} names no raw chain spec (tests/README.md says how to get one)");
            return None;
        };
        let program = peers().join("chopsticks/node_modules/.bin/chopsticks");
        if !program.exists() || !python().exists() {
            println!("skipped: no {} or {}; tests/peers.sh makes them", program.display(), python().display());
            return None;
        }
        // A busy port is left for the next one, which is said in the log alone.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut chain_spec = OsString::from("--chain-spec=");
        chain_spec.push(spec);
        let mut command = Command::new(program);
        command.arg(chain_spec).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--build-block-mode", "Instant", "--allow-unresolved-imports"]);
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        let mut node = Self { process, url: format!("ws://127.0.0.1:{port}"), netuid: 0 };
        let mut looks = 0;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(node.process.try_wait().unwrap(), None, "chopsticks has ended");
            looks += 1;
            assert!(looks < MOST_LOOKS, "chopsticks does not listen");
            SystemClock::new().sleep(Duration::from_secs(1)).await;
        }
        node.netuid = node.prepare(&["register"]).trim().parse().unwrap();
        Some(node)
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on weights are committed first.
    pub(crate) fn commit_reveal_on(&self) {
        self.prepare(&["commit", &self.netuid.to_string()]);
    }

    fn prepare(&self, phase: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/chopsticks.py");
        let output = Command::new(python()).arg(script).arg(&self.url).args(phase).output().unwrap();
        assert!(output.status.success(), "{phase:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Chopsticks {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn peers() -> PathBuf {
    let named = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    named.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers"))).unwrap_or_default()
}

pub(crate) fn python() -> PathBuf {
    peers().join("sdk10/bin/python")
}
