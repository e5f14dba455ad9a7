//! What a service manager hears: a real socket, as systemd gives one.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use crate::program::{CONSTANT_REWARD, Program, SHORT_DEADLINES, binary, models};

/// Much longer than anything here takes, on cores that have much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// Reads datagrams until one holds this line; gives all of them.
fn until(manager: &UnixDatagram, line: &str) -> Vec<String> {
    let (since, mut heard) = (Instant::now(), Vec::new());
    loop {
        assert!(since.elapsed() < PATIENCE, "no `{line}` in {heard:?}");
        let mut bytes = [0; 4_096];
        let Ok(length) = manager.recv(&mut bytes) else { continue };
        heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        if heard.last().unwrap().lines().any(|told| told.starts_with(line)) {
            return heard;
        }
    }
}

#[test]
fn a_service_manager_hears_when_it_is_ready_gets_on_and_stops() {
    models();
    let state = tempfile::tempdir().unwrap();
    let socket = state.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut command = binary();
    command.args(["run", "--json", "--state-dir"]).arg(state.path().join("state"));
    let settings = SHORT_DEADLINES.iter().chain(&CONSTANT_REWARD).chain(&["reporting.metrics.address=127.0.0.1:0"]);
    command.args(settings.flat_map(|setting| ["--set", setting]));
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000").env_remove("WATCHDOG_PID");
    let mut program = Program::of(command);

    let before = until(&manager, "READY=1");
    assert!(before[0].starts_with("STATUS=starting"), "{before:?}");
    assert!(!before.concat().contains("WATCHDOG=1"), "no sign of life before there is anything to look at");
    program.until("step");
    // One second apart, as long as every part gets on.
    for _ in 0..3 {
        let heard = until(&manager, "WATCHDOG=1");
        assert!(heard.last().unwrap().contains("\nSTATUS=step "), "{heard:?}");
    }
    program.terminate();
    let heard = until(&manager, "STOPPING=1");
    assert!(heard.last().unwrap().contains("STATUS=stopping: asked by SIGTERM"), "{heard:?}");
    assert!(program.finish().1.success());
}
