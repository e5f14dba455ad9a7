//! Starts the real binary, as a validator or as a local network, and reads what it says.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    panic::resume_unwind,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex, OnceLock,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest that any one run of these tests may take, on cores that have much else to do: an end to hanging, not a target.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// A run of `openvalidators run --json` with a state directory of its own.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    deadline: Instant,
}

/// A run of `openvalidators localnet`.
pub struct LocalnetProcess {
    child: Child,
    /// Where its chain is reached.
    pub address: String,
}

/// More lines than any test lets a program say before it reads them.
const LINES: usize = 100_000;

/// The binary, with an environment that no operator's settings leak into.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openvalidators"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OPENVALIDATORS_SET__")) {
        command.env_remove(name);
    }
    for name in ["OPENVALIDATORS_CONFIG", "OPENVALIDATORS_LOG", "OPENVALIDATORS_PROFILE"] {
        command.env_remove(name);
    }
    command
}

/// Runs to the end.
pub fn output(args: &[&str]) -> Output {
    binary().args(args).output().unwrap()
}

/// Everything written to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The models, fetched once for all tests of this binary.
pub fn models() {
    static FETCHED: OnceLock<()> = OnceLock::new();
    FETCHED.get_or_init(|| {
        let fetched = output(&["models", "fetch"]);
        assert!(fetched.status.success(), "the tests need the models: {}", stderr(&fetched));
    });
}

impl Program {
    /// Starts `run` with fast settings: short deadlines, and a port the system chooses.
    pub fn start(state: &Path, args: &[&str]) -> Self {
        let fast = SHORT_DEADLINES.iter().flat_map(|setting| ["--set", setting]);
        Self::start_unhurried(state, &fast.chain(args.iter().copied()).collect::<Vec<_>>())
    }

    /// As [`Self::start`], with these variables, and its log in a file.
    pub fn start_among(state: &Path, args: &[&str], variables: &[(&str, &str)], log: &Path) -> Self {
        let fast = SHORT_DEADLINES.iter().flat_map(|setting| ["--set", setting]);
        let mut command = binary();
        command.envs(variables.iter().copied()).stderr(std::fs::File::create(log).unwrap());
        Self::spawn(command, state, &fast.chain(args.iter().copied()).collect::<Vec<_>>())
    }

    /// Starts `run` as configured by default, but for its port.
    pub fn start_unhurried(state: &Path, args: &[&str]) -> Self {
        Self::spawn(binary(), state, args)
    }

    fn spawn(mut command: Command, state: &Path, args: &[&str]) -> Self {
        models();
        command.arg("run").arg("--json").arg("--state-dir").arg(state);
        command.args(["--set", "reporting.metrics.address=127.0.0.1:0"]);
        command.args(args);
        Self::of(command)
    }

    /// Starts what a test has made of [`binary`].
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines(&mut child);
        Self { child, lines, deadline: Instant::now() + PATIENCE }
    }

    /// Where metrics and health are served; among the first things a program says.
    pub fn metrics_address(&mut self) -> String {
        self.note("metrics at http://").strip_suffix("/metrics").unwrap().to_owned()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The next line of output, or none at its end.
    pub fn line(&mut self) -> Option<Value> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let line = match self.lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => panic!("the program took longer than {PATIENCE:?}"),
        };
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// Reads on until a line of this event.
    pub fn until(&mut self, event: &str) -> Value {
        loop {
            let line = self.line().unwrap_or_else(|| panic!("the program ended before `{event}`"));
            if line["event"] == event {
                return line;
            }
        }
    }

    /// Reads on until a note that begins like this, and gives the rest of it.
    pub fn note(&mut self, beginning: &str) -> String {
        loop {
            let line = self.until("note");
            if let Some(rest) = line["text"].as_str().unwrap().strip_prefix(beginning) {
                return rest.to_owned();
            }
        }
    }

    /// Reads everything to the end and waits for the program.
    pub fn finish(mut self) -> (Vec<Value>, ExitStatus) {
        let mut lines = Vec::new();
        while let Some(line) = self.line() {
            lines.push(line);
        }
        (lines, self.child.wait().unwrap())
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it has used of the cores so far, all threads together: how long something took on a machine that does much else.
    pub fn cpu_time(&self) -> Duration {
        const TICKS_A_SECOND: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name, which may hold anything: user and system time are the 14th and 15th field.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND)
    }

    /// `kill -9`, and everything it had said, a line cut short left out.
    pub fn kill_and_read(mut self) -> Vec<Value> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.iter().filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        send("TERM", &self.child);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A failed test leaves no process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl LocalnetProcess {
    /// Starts chain and miners and waits until a validator may come. `listen` is a loopback address; port 0 takes a free one.
    pub fn start(state: &Path, listen: &str, settings: &[&str]) -> Self {
        let mut command = binary();
        command.args(["localnet", "--listen", listen, "--state-dir"]).arg(state);
        command.args(settings.iter().flat_map(|setting| ["--set", setting])).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let ready = "ready: openvalidators run --chain ";
        let address = lines(&mut child).iter().find_map(|line| line.strip_prefix(ready).map(str::to_owned));
        Self { child, address: address.expect("localnet says where it is") }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGSTOP: its sockets stay open, and nothing answers any more.
    pub fn hold(&self) {
        send("STOP", &self.child);
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for LocalnetProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status().unwrap();
    assert!(sent.success());
}

/// What a process says, read as it is said: a full pipe would hold it up.
fn lines(child: &mut Child) -> Receiver<String> {
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    let (hear, heard) = sync_channel(LINES);
    std::thread::spawn(move || {
        for line in said.map_while(Result::ok) {
            // Read on when nobody listens any more, so that the pipe stays open.
            let _ = hear.send(line);
        }
    });
    heard
}

/// Settings that make a run quick without changing what it does.
pub const SHORT_DEADLINES: [&str; 3] = [
    "prompts.augment_timeout_seconds=1.0",
    "prompts.followup_timeout_seconds=1.0",
    "prompts.answer_timeout_seconds=1.0",
];

/// The rewards replaced by a constant, and no filter: nothing but the outcome of a query decides.
pub const CONSTANT_REWARD: [&str; 6] = [
    "rewards.weights.dpo_reward_model=0.0",
    "rewards.weights.constant_reward_model=1.0",
    "rewards.relevance.enabled=false",
    "rewards.diversity.enabled=false",
    "rewards.blacklist.enabled=false",
    "rewards.task_validator.enabled=false",
];

/// Does the work for every item, `at_once` of them side by side, and gives the results in the order of the items.
pub fn side_by_side<T: Sync, R: Send>(items: &[T], at_once: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(items.iter().enumerate());
    let next = || queue.lock().unwrap().next();
    let lane = || std::iter::from_fn(next).map(|(place, item)| (place, work(item))).collect::<Vec<_>>();
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..at_once).map(|_| scope.spawn(lane)).collect();
        // What failed in a lane fails here.
        lanes.into_iter().flat_map(|lane| lane.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// GETs a path over plain HTTP/1.0, whose bodies come in one piece.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}
