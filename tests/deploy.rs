//! The files that a person installs by: judged by systemd's own tools, by hadolint and by a reader of Compose's specification,
//! where they are; and the program installed and run from anywhere.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Of ten, as `systemd-analyze security` has it: 2.0.
const MOST_EXPOSURE: &str = "--threshold=20";

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

/// A program of `tests/peers.sh`.
fn peer(program: &str) -> PathBuf {
    let folder = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers")));
    folder.unwrap_or_default().join("deploy/bin").join(program)
}

/// What a program says of files: whether it takes them, and its words. `None`, and said, where it is not here.
fn judged(program: &Path, arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new(program).args(arguments).output() {
        Err(error) => {
            println!("skipped: no {} ({error}); tests/peers.sh installs what can be", program.display());
            None
        }
        Ok(told) => {
            let words = [told.stdout, told.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            Some((told.status.success(), words))
        }
    }
}

/// A unit that is not there yet cannot be verified with its own program: another one stands for it.
fn unit(folder: &Path, change: impl Fn(String) -> String) -> String {
    let unit = std::fs::read_to_string(deploy("openvalidators.service")).unwrap();
    let path = folder.join("openvalidators.service");
    std::fs::write(&path, change(unit.replace("/usr/local/bin/openvalidators", "/bin/true"))).unwrap();
    path.display().to_string()
}

#[test]
fn systemd_takes_the_unit_and_finds_it_closed() {
    let (folder, systemd) = (tempfile::tempdir().unwrap(), Path::new("systemd-analyze"));
    let as_shipped = unit(folder.path(), |unit| unit);
    let Some((taken, words)) = judged(systemd, &["verify", &as_shipped]) else { return };
    assert!(taken && words.is_empty(), "{words}");
    let security = ["security", "--offline=true", "--no-pager", MOST_EXPOSURE];
    let (closed, words) = judged(systemd, &[&security[..], &[&as_shipped]].concat()).unwrap();
    assert!(closed, "{words}");
    // It would tell if it were not.
    let open =
        unit(folder.path(), |unit| unit.replace("CapabilityBoundingSet=\n", "").replace("NoNewPrivileges=yes", ""));
    let (closed, words) = judged(systemd, &[&security[..], &[&open]].concat()).unwrap();
    assert!(!closed, "{words}");
}

#[test]
fn the_linter_of_dockerfiles_has_nothing_to_say() {
    let (hadolint, shipped) = (peer("hadolint"), deploy("Dockerfile"));
    let Some((taken, words)) = judged(&hadolint, &[&shipped.display().to_string()]) else { return };
    assert!(taken, "{words}");
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("Dockerfile");
    std::fs::write(&bad, "FROM debian\nRUN cd /src && sudo make\n").unwrap();
    let (taken, words) = judged(&hadolint, &[&bad.display().to_string()]).unwrap();
    assert!(!taken && words.contains("DL3004"), "{words}");
}

#[test]
fn compose_files_hold_to_the_specification() {
    let read = "import sys, compose_spec; c = compose_spec.PyCompose.from_yaml(open(sys.argv[1]).read()); c.validate(); \
                print(c.service_names())";
    let python = peer("python");
    let services = |file: &Path| judged(&python, &["-c", read, &file.display().to_string()]);
    let Some((taken, words)) = services(&deploy("compose.yml")) else { return };
    for service in ["validator", "prometheus", "alertmanager", "grafana"] {
        assert!(taken && words.contains(service), "{words}");
    }
    let (taken, words) = services(&deploy("compose.cuda.yml")).unwrap();
    assert!(taken && words.contains("validator"), "{words}");
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("compose.yml");
    std::fs::write(&bad, "services: {validator: {image: x, restart: sometimes}}").unwrap();
    assert!(!services(&bad).unwrap().0);
}
