//! A disk that is full, and one whose writes fail: real file systems of a few MiB, where the machine lets a test mount them.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::program::{CONSTANT_REWARD, LocalnetProcess, Program, SHORT_DEADLINES, binary, get, models};

/// How long the trouble lasts; `OPENVALIDATORS_DISK_TROUBLE_SECONDS=60` for the aim's length.
const TROUBLE: Duration = Duration::from_secs(15);
const TROUBLE_VARIABLE: &str = "OPENVALIDATORS_DISK_TROUBLE_SECONDS";
/// Weights that must be set meanwhile.
const WEIGHTS_MEANWHILE: usize = 2;
const PATIENCE: Duration = Duration::from_secs(600);

/// Takes what room there is: the file systems below it are full while it lies there.
const BALLOON: &str = "balloon";

/// Folders mounted for a test, the outermost first; unmounted at its end.
struct Mounted(Vec<PathBuf>);

impl Mounted {
    /// Runs mount(8); says why it cannot be had.
    fn add(&mut self, target: PathBuf, args: &[&str]) -> Result<(), String> {
        fs::create_dir_all(&target).unwrap();
        run("mount", &[args, &[target.to_str().unwrap()]].concat())?;
        self.0.push(target);
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for target in self.0.iter().rev() {
            let _ = run("umount", &["--lazy", target.to_str().unwrap()]);
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

/// A tmpfs that the balloon fills: writes end with ENOSPC.
fn full(here: &Path) -> Result<(Mounted, PathBuf, PathBuf), String> {
    let (mut mounted, disk) = (Mounted(Vec::new()), here.join("disk"));
    mounted.add(disk.clone(), &["-t", "tmpfs", "-o", "size=32m", "tmpfs"])?;
    Ok((mounted, disk.join("state"), disk.join(BALLOON)))
}

/// A file system without a journal on a loop device, whose sparse file lies on a tmpfs that the balloon fills: its blocks cannot
/// be written, and fsync ends with EIO.
fn failing(here: &Path) -> Result<(Mounted, PathBuf, PathBuf), String> {
    let (mut mounted, back, disk) = (Mounted(Vec::new()), here.join("back"), here.join("disk"));
    mounted.add(back.clone(), &["-t", "tmpfs", "-o", "size=48m", "tmpfs"])?;
    let image = back.join("image");
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    let image = image.to_str().unwrap();
    run("mkfs.ext2", &["-q", "-F", image])?;
    mounted.add(disk.clone(), &["-o", "loop,errors=continue", image])?;
    Ok((mounted, disk.join("state"), back.join(BALLOON)))
}

/// Writes until there is no room.
fn inflate(balloon: &Path) {
    let mut file = fs::File::create(balloon).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

fn metric(address: &str, name: &str) -> f64 {
    let (_, page) = get(address, "/metrics");
    let values = page
        .lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

fn survive(mount: impl Fn(&Path) -> Result<(Mounted, PathBuf, PathBuf), String>) {
    let here = tempfile::tempdir().unwrap();
    let (_mounted, state, balloon) = match mount(here.path()) {
        Ok(mounted) => mounted,
        Err(reason) => return println!("skipped: this machine mounts nothing for a test: {reason}"),
    };
    models();
    let trouble =
        std::env::var(TROUBLE_VARIABLE).map_or(TROUBLE, |seconds| Duration::from_secs(seconds.parse().unwrap()));
    let mut command = binary();
    command.args(["run", "--json", "--state-dir"]).arg(&state);
    // The chain is elsewhere: its disk has no trouble.
    let chain = tempfile::tempdir().unwrap();
    let localnet = LocalnetProcess::start(chain.path(), "127.0.0.1:0", &["chain.local.block_seconds=0.3"]);
    command.args(["--chain", &localnet.address, "--set", "reporting.metrics.address=127.0.0.1:0"]);
    command.args(SHORT_DEADLINES.iter().chain(&CONSTANT_REWARD).flat_map(|setting| ["--set", setting]));
    let mut program = Program::of(command);
    let address = program.metrics_address();
    let (mut told, mut is_set) = (Vec::new(), false);
    while told.is_empty() || !is_set {
        let line = program.line().expect("it runs");
        told.extend((line["event"] == "step").then(|| line["sequence"].as_u64().unwrap()));
        is_set |= line["text"].as_str().unwrap_or_default().starts_with("weights ");
    }

    inflate(&balloon);
    let (since, mut weights) = (Instant::now(), 0);
    while since.elapsed() < trouble || weights < WEIGHTS_MEANWHILE {
        assert!(since.elapsed() < PATIENCE, "{weights} weights were set while the disk took nothing");
        let line = program.line().expect("it lives on");
        told.extend((line["event"] == "step").then(|| line["sequence"].as_u64().unwrap()));
        let note = line["text"].as_str().unwrap_or_default();
        weights += usize::from(note.starts_with("weights set") || note.starts_with("weights committed"));
    }
    let errors = metric(&address, "openvalidators_ledger_errors_total");
    assert!(errors >= 1.0, "what LedgerFailing alerts of");
    assert!(metric(&address, "openvalidators_weights_unrecorded_intents_total") >= 1.0);
    assert!(metric(&address, "openvalidators_weights_hotkeys") >= 1.0, "the scores are in memory");
    let before = *told.last().unwrap();

    fs::remove_file(&balloon).unwrap();
    let since = Instant::now();
    while *told.last().unwrap() < before + 3 {
        assert!(since.elapsed() < PATIENCE, "it does not go on: {told:?}");
        told.push(program.until("step")["sequence"].as_u64().unwrap());
    }
    program.terminate();
    let (lines, status) = program.finish();
    assert!(status.success());
    told.extend(lines.iter().filter(|line| line["event"] == "step").map(|line| line["sequence"].as_u64().unwrap()));
    assert_eq!(told, (1..=told.len() as u64).collect::<Vec<_>>(), "each step once");
    for args in [&["ledger", "check"][..], &["replay"]] {
        let constant = CONSTANT_REWARD.iter().flat_map(|setting| ["--set", setting]);
        let asked = binary().args(args).args(constant).arg("--state-dir").arg(&state).output().unwrap();
        assert!(asked.status.success(), "{args:?}: {}", String::from_utf8_lossy(&asked.stdout));
    }
    println!(
        "{weights} weights set and {errors} refusals in {:.0} s of trouble, then {} steps, all whole",
        trouble.as_secs_f64(),
        told.len()
    );
}

#[test]
fn a_full_disk_keeps_no_weights_from_the_chain_and_tears_nothing() {
    survive(full);
}

#[test]
fn a_disk_whose_writes_fail_keeps_no_weights_from_the_chain_and_tears_nothing() {
    survive(failing);
}
