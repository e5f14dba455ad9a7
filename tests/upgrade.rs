//! A validator that runs, and releases that come to it: one that is good, and others that are not, each with a version of its own.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use minisign::KeyPair;
use openvalidators_ledger::{Reader, SCHEMA_VERSION};
use openvalidators_messages::Sequence;

use crate::{
    dashboards::free_port,
    program::{binary, stderr},
    update::Server,
};

/// The version that is built.
const OURS: &str = env!("CARGO_PKG_VERSION");
const PATIENCE: Duration = Duration::from_secs(300);

/// The program as built, but for its version: the same number of letters, so nothing moves in the file.
fn program_of(version: &str) -> Vec<u8> {
    assert_eq!(version.len(), OURS.len());
    let exchange = format!("s/{}/{version}/g", OURS.replace('.', "\\."));
    let mut sed = Command::new("sed");
    sed.args([&exchange, env!("CARGO_BIN_EXE_openvalidators")]).env("LC_ALL", "C").output().unwrap().stdout
}

/// Newer than ours by its first number.
fn newer(first: u32) -> String {
    let (_, rest) = OURS.split_once('.').unwrap();
    format!("{first}.{rest}")
}

/// A machine: the program in its place, a validator that it runs, and how it is restarted.
struct Machine {
    folder: tempfile::TempDir,
    releases: Server,
    key: KeyPair,
    metrics: String,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
            releases: Server::start(),
            key: KeyPair::generate_unencrypted_keypair().unwrap(),
            metrics: format!("127.0.0.1:{}", free_port()),
        };
        machine.install("openvalidators", &std::fs::read(env!("CARGO_BIN_EXE_openvalidators")).unwrap());
        // What a service manager does: end the old one in order, start what is in its place.
        let restart = format!(
            "#!/bin/sh\ncd {folder}\nif [ -e pid ]; then kill $(cat pid) 2> /dev/null; \
             while [ -e /proc/$(cat pid)/exe ]; do sleep 0.1; done; fi\n\
             setsid ./openvalidators run --quiet --state-dir state --mock --neuron.mock_dataset --neuron.mock_gating_model \
             --neuron.mock_dendrite_pool --neuron.mock_reward_models --set reporting.metrics.address={metrics} \
             < /dev/null >> log 2>&1 &\necho $! > pid\n",
            folder = machine.folder.path().display(),
            metrics = machine.metrics,
        );
        machine.install("restart", restart.as_bytes());
        assert!(Command::new(machine.at("restart")).status().unwrap().success());
        machine
    }

    fn at(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn install(&self, file: &str, bytes: &[u8]) {
        let mut written = std::fs::File::create(self.at(file)).unwrap();
        written.write_all(bytes).unwrap();
        written.set_permissions(std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// As an operator types it: the program that is in its place updates itself.
    fn apply(&self, ready_seconds: u32) -> Output {
        let command = binary();
        let variables: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        let mut command = Command::new(self.at("openvalidators"));
        variables.iter().chain(&["http_proxy".into(), "HTTP_PROXY".into()]).for_each(|name| {
            command.env_remove(name);
        });
        let settings = [
            format!("update.url=http://{}/r", self.releases.address),
            format!("update.public_key={}", self.key.pk.to_base64()),
            format!("update.restart_command=[{:?}]", self.at("restart")),
            format!("reporting.metrics.address={}", self.metrics),
            format!("update.ready_seconds={ready_seconds}"),
            "update.window_seconds=15".to_owned(),
            "update.progress_seconds=10".to_owned(),
        ];
        command.args(["update", "apply", "--guard"]).args(settings.iter().flat_map(|setting| ["--set", setting]));
        command.output().unwrap()
    }

    /// The version that settles the next step.
    fn settles(&self) -> String {
        let state = self.at("state");
        let latest = || Reader::open(&state).ok().and_then(|reader| reader.latest().ok()).map_or(0, |latest| latest.0);
        let (before, since) = (latest(), Instant::now());
        while latest() == before {
            let log = std::fs::read_to_string(self.at("log")).unwrap_or_default();
            assert!(since.elapsed() < PATIENCE, "nothing beyond step {before}: {log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let steps = Reader::open(&state).unwrap().read_steps(Sequence(before), 1).unwrap();
        steps[0].record.code_version.clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("sh").args(["-c", "kill -9 $(cat pid)"]).current_dir(self.folder.path()).status();
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output))
}

#[test]
fn a_running_validator_is_replaced_by_what_works_and_goes_on_after_what_does_not() {
    let machine = Machine::new();
    assert_eq!(machine.settles(), OURS);

    let good = newer(7);
    machine.releases.publish(&machine.key, &good, SCHEMA_VERSION, &program_of(&good));
    let applied = machine.apply(120);
    assert!(applied.status.success(), "{}", said(&applied));
    assert!(said(&applied).contains(&format!("{good} does its duty")), "{}", said(&applied));
    assert_eq!(machine.settles(), good, "another program runs now");

    // It never answers.
    let silent = newer(8);
    let program = format!("#!/bin/sh\n[ \"$1\" = --version ] && echo openvalidators {silent} && exit\nexit 2\n");
    machine.releases.publish(&machine.key, &silent, SCHEMA_VERSION, program.as_bytes());
    let applied = machine.apply(10);
    assert_eq!(applied.status.code(), Some(1), "{}", said(&applied));
    assert!(said(&applied).contains("did not become ready"), "{}", said(&applied));
    assert_eq!(machine.settles(), good, "the program of before opens the ledger and goes on");

    // It starts, answers, and settles nothing: it looks for texts where there are none.
    let idle = newer(9);
    machine.install("idle", &program_of(&idle));
    let nowhere = "--set models.hugging_face_endpoint=http://127.0.0.1:9 --set prompts.only=web --set \
                   'prompts.sources.web={kind=\"hugging_face\",dataset=\"owner/name\"}'";
    let program = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo openvalidators {idle} && exit\n\
         exec {} \"$@\" --set prompts.first_text_patience_seconds=1 {nowhere}\n",
        machine.at("idle").display()
    );
    machine.releases.publish(&machine.key, &idle, SCHEMA_VERSION, program.as_bytes());
    let applied = machine.apply(120);
    assert_eq!(applied.status.code(), Some(1), "{}", said(&applied));
    assert!(said(&applied).contains("it settled no step for 10 s"), "{}", said(&applied));
    assert_eq!(machine.settles(), good);

    // What would lead back is refused by the version that runs, which goes on.
    machine.releases.publish(&machine.key, OURS, SCHEMA_VERSION, b"not as much as fetched");
    let refused = machine.apply(10);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("a downgrade is refused"), "{}", said(&refused));
    assert_eq!(machine.settles(), good);

    // Nothing is lost on the way: steps of every version, one after another.
    let checked = binary().args(["ledger", "check", "--state-dir"]).arg(machine.at("state")).output().unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
    let (reader, mut versions, mut next) = (Reader::open(&machine.at("state")).unwrap(), Vec::new(), 0);
    loop {
        let steps = reader.read_steps(Sequence(next), 500).unwrap();
        let Some(last) = steps.last() else { break };
        for (place, step) in steps.iter().enumerate() {
            assert_eq!(step.sequence.0, next + 1 + place as u64, "none is missing");
            if versions.last() != Some(&step.record.code_version) {
                versions.push(step.record.code_version.clone());
            }
        }
        next = last.sequence.0;
    }
    assert_eq!(versions, [OURS, &good]);
}
