//! Updates from a real release server on this machine, signed with keys made here, and what is refused.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use minisign::KeyPair;
use openvalidators_ledger::SCHEMA_VERSION;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::program::{binary, stderr};

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Serves what is in `files`, one request a connection.
pub struct Server {
    pub address: String,
    files: Files,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let files = Files::default();
        let served = files.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut request = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                if reader.read_line(&mut request).is_err() {
                    continue;
                }
                let mut header = String::new();
                while reader.read_line(&mut header).is_ok_and(|read| read > 2) {
                    header.clear();
                }
                let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
                let found = served.lock().unwrap().get(&path).cloned();
                let (status, body) = found.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        Self { address, files }
    }

    /// A release, signed, in the folder `/r`.
    pub fn publish(&self, key: &KeyPair, version: &str, ledger_schema: u32, program: &[u8]) {
        let file = json!({
            "file": "program", "bytes": program.len(), "sha256": hex::encode(Sha256::digest(program)),
        });
        let manifest = json!({
            "version": version, "ledger_schema": ledger_schema,
            "programs": { "linux-x86_64": file, "linux-aarch64": file },
        });
        let manifest = manifest.to_string().into_bytes();
        let signature = minisign::sign(None, &key.sk, manifest.as_slice(), Some(version), None).unwrap();
        self.put("/r/latest.json", manifest);
        self.put("/r/latest.json.minisig", signature.into_string());
        self.put("/r/program", program);
    }

    fn put(&self, path: &str, body: impl Into<Vec<u8>>) {
        self.files.lock().unwrap().insert(path.to_owned(), body.into());
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.files.lock().unwrap().get_mut(path).unwrap());
    }
}

/// A machine with a program to replace, a server of releases, and their key.
struct Stage {
    releases: Server,
    validator: Server,
    key: KeyPair,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self {
            releases: Server::start(),
            validator: Server::start(),
            key: KeyPair::generate_unencrypted_keypair().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(stage.program(), "the program of before").unwrap();
        stage.validates("0.0.1", 1);
        stage
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("openvalidators")
    }

    fn is(&self) -> String {
        std::fs::read_to_string(self.program()).unwrap()
    }

    /// Files of the folder, sorted.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A program that knows its version.
    fn release(&self, version: &str) -> String {
        let program = format!("#!/bin/sh\necho openvalidators {version}\n");
        self.release_of(version, SCHEMA_VERSION, &program);
        program
    }

    fn release_of(&self, version: &str, ledger_schema: u32, program: &str) {
        self.releases.publish(&self.key, version, ledger_schema, program.as_bytes());
    }

    /// What the validator on this machine serves.
    fn validates(&self, version: &str, sequence: u64) {
        let metrics = format!(
            "openvalidators_build_info{{revision=\"r\",spec_version=\"10\",version=\"{version}\"}} 1\n\
             openvalidators_ledger_latest_sequence {sequence}\n"
        );
        self.validator.put("/metrics", metrics);
        self.validator.put("/health", "{}");
    }

    fn update(&self, arguments: &[&str], settings: &[&str]) -> Output {
        let restarted = self.folder.path().join("restarted");
        let ours = [
            format!("update.url=http://{}/r", self.releases.address),
            format!("reporting.metrics.address={}", self.validator.address),
            format!("update.restart_command=[\"sh\", \"-c\", \"echo x >> {}\"]", restarted.display()),
            "update.ready_seconds=5".to_owned(),
            "update.window_seconds=8".to_owned(),
            "update.progress_seconds=6".to_owned(),
        ];
        let settings = ours.into_iter().chain(settings.iter().map(|setting| (*setting).to_owned()));
        let key = format!("update.public_key={}", self.key.pk.to_base64());
        let mut command = binary();
        command.arg("update").args(arguments).arg("--binary").arg(self.program()).args(["--set", &key]);
        command.args(settings.flat_map(|setting| ["--set".to_owned(), setting]));
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.output().unwrap()
    }

    fn restarts(&self) -> usize {
        std::fs::read_to_string(self.folder.path().join("restarted")).map_or(0, |text| text.lines().count())
    }

    /// Refused with these words, and nothing on the disk is another than before.
    fn refuses(&self, settings: &[&str], words: &[&str]) {
        let before = (self.is(), self.files());
        let refused = self.update(&["apply"], settings);
        let told = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{told}");
        words.iter().for_each(|word| assert!(told.contains(word), "`{word}` is not in: {told}"));
        assert_eq!((self.is(), self.files()), before);
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_newer_release_is_put_in_place_and_can_be_taken_back() {
    let stage = Stage::new();
    let new = stage.release("99.0.0");
    assert!(said(&stage.update(&["check"], &[])).contains("99.0.0 is there; this is"));
    assert_eq!(stage.is(), "the program of before", "looking changes nothing");
    assert!(said(&stage.update(&["apply"], &[])).contains("99.0.0 is in its place"));
    assert_eq!(stage.is(), new);
    assert_eq!(std::fs::metadata(stage.program()).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(stage.files(), ["openvalidators", "openvalidators.applied", "openvalidators.previous"]);
    said(&stage.update(&["rollback"], &[]));
    assert_eq!(stage.is(), "the program of before");
    let nothing = stage.update(&["rollback"], &[]);
    assert!(stderr(&nothing).contains("no update is kept"), "{}", stderr(&nothing));
}

#[test]
fn what_is_not_signed_whole_newer_and_fit_is_refused() {
    let stage = Stage::new();
    stage.refuses(&[], &["404"]);
    stage.release("0.0.1");
    stage.refuses(&[], &["0.0.1 is older", "downgrade"]);
    stage.release("99.0.0");
    let other = KeyPair::generate_unencrypted_keypair().unwrap().pk.to_base64();
    let release = || stage.release("99.0.0");
    // A later --set wins: another key is pinned.
    let pinned = format!("update.public_key={other}");
    let told = stage.update_with_key(&pinned);
    assert!(stderr(&told).contains("does not hold with update.public_key"), "{}", stderr(&told));
    stage.releases.change("/r/latest.json", |manifest| manifest.push(b' '));
    stage.refuses(&[], &["does not hold", "Nothing was changed"]);
    release();
    stage.releases.change("/r/latest.json.minisig", |signature| signature.truncate(60));
    stage.refuses(&[], &["half-written"]);
    release();
    stage.releases.change("/r/program", |program| program.truncate(12));
    stage.refuses(&[], &["has 12 bytes where", "half-written"]);
    release();
    stage.releases.change("/r/program", |program| program.extend(b"#more"));
    stage.refuses(&[], &["longer than"]);
    release();
    stage.releases.change("/r/program", |program| program[12] ^= 1);
    stage.refuses(&[], &["sha256", "was signed"]);
    stage.release_of("99.0.0", SCHEMA_VERSION + 1, "#!/bin/sh\necho openvalidators 99.0.0\n");
    stage.refuses(&[], &["ledger of schema", "could not be taken back"]);
    stage.release_of("99.0.0", SCHEMA_VERSION, "#!/bin/sh\necho openvalidators 98.0.0\n");
    stage.refuses(&[], &["openvalidators 98.0.0", "asked for its version"]);
    stage.release_of("99.0.0", SCHEMA_VERSION, "no program at all");
    stage.refuses(&[], &["does not run on this machine"]);
}

impl Stage {
    fn update_with_key(&self, pinned: &str) -> Output {
        let url = format!("update.url=http://{}/r", self.releases.address);
        binary()
            .args(["update", "check", "--set", &url, "--set", pinned])
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY")
            .output()
            .unwrap()
    }
}

#[test]
fn updates_are_off_until_an_address_and_a_key_are_named() {
    let off = binary().args(["update", "check"]).output().unwrap();
    assert_eq!(off.status.code(), Some(2));
    assert!(stderr(&off).contains("updates are off"), "{}", stderr(&off));
}

/// Steps that go on are all that keeps it.
#[test]
fn a_release_that_does_its_duty_is_kept() {
    let stage = Stage::new();
    stage.release("99.0.0");
    stage.validates("99.0.0", 5);
    let ended = AtomicBool::new(false);
    let told = std::thread::scope(|scope| {
        scope.spawn(|| {
            for sequence in 6.. {
                std::thread::sleep(Duration::from_millis(200));
                stage.validates("99.0.0", sequence);
                if ended.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let output = stage.update(&["apply", "--guard"], &[]);
        ended.store(true, Ordering::Relaxed);
        said(&output)
    });
    assert!(told.contains("99.0.0 does its duty"), "{told}");
    assert_eq!((stage.restarts(), stage.files().contains(&"openvalidators.applied".to_owned())), (1, false));
    assert!(said(&stage.update(&["guard"], &[])).contains("no release waits"));
}

#[test]
fn a_release_that_does_not_become_ready_is_taken_back() {
    let stage = Stage::new();
    stage.release("99.0.0");
    let ended = stage.update(&["apply", "--guard"], &[]);
    let told = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "{told}{}", stderr(&ended));
    assert!(told.contains("did not become ready in 5 s (version 0.0.1 answers)"), "{told}");
    assert_eq!((stage.is().as_str(), stage.restarts()), ("the program of before", 2));
    assert!(Path::new(&stage.folder.path().join("openvalidators.failed")).exists(), "for whoever looks why");
}

/// systemd's `restart` fails where the new program ends before it is ready. The release used to stay in its place then.
#[test]
fn a_release_that_cannot_be_started_is_taken_back() {
    let stage = Stage::new();
    stage.release("99.0.0");
    let ended = stage.update(&["apply", "--guard"], &["update.restart_command=[\"sh\", \"-c\", \"exit 3\"]"]);
    let told = String::from_utf8_lossy(&ended.stdout);
    assert_eq!((ended.status.code(), stage.is().as_str()), (Some(1), "the program of before"), "{told}");
    assert!(told.contains("ended with exit status: 3") && told.contains("must be restarted by hand"), "{told}");
    let stays = ["update.restart_command=[\"sh\", \"-c\", \"exit 3\"]", "update.roll_back=false"];
    let ended = stage.update(&["apply", "--guard"], &stays);
    assert!(String::from_utf8_lossy(&ended.stdout).contains("roll_back is false, so it stays"));
    assert_ne!(stage.is(), "the program of before");
}

#[test]
fn a_release_that_loses_progress_is_taken_back() {
    let stage = Stage::new();
    stage.release("99.0.0");
    stage.validates("99.0.0", 5);
    let ended = stage.update(&["apply", "--guard"], &[]);
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(told.contains("it settled no step for 6 s"), "{told}{}", stderr(&ended));
    assert_eq!((ended.status.code(), stage.is().as_str()), (Some(1), "the program of before"));
}
