use std::{process::Stdio, sync::Arc};

use openvalidators_runtime::{DrivenClock, SystemClock};
use prometheus::Registry;

use super::*;
use crate::{
    testing::steps,
    wandb::{
        journal::{FINISHED, tests::journal, tests::rows},
        record::Item,
        server_double::{Double, Fault, KEY, OWNER, until},
    },
};

/// As fast as it can.
fn hurried() -> Pace {
    Pace {
        tick: Duration::from_millis(5),
        heartbeat: Duration::from_millis(100),
        refused: Duration::from_millis(50),
        hurry: 1_000,
        request_bytes: 4_000,
    }
}

fn places(folder: &Path, key: &str) -> Places {
    let file = folder.join("key");
    std::fs::write(&file, key).unwrap();
    Places { file: Some(file), host: "127.0.0.1".into(), ..Places::default() }
}

pub(in crate::wandb) fn uploader(folder: &Path, server: Url, pace: Pace, clock: SharedClock) -> Uploader {
    let metrics = WandbMetrics::new(&Registry::new()).unwrap();
    Uploader::new(folder.join("wandb"), server, places(folder, KEY), 5, pace, clock, metrics)
}

pub(in crate::wandb) fn hurried_uploader(folder: &Path, double: &Double) -> Uploader {
    uploader(folder, double.url(), hurried(), SystemClock::shared())
}

/// What the double must hold: the rows of the log, each once, in order.
fn assert_held(double: &Double, folder: &Path) {
    let (name, held) = double.only_run();
    assert!(name.starts_with(&format!("{OWNER}/openvalidators/")), "{name}");
    let held_rows: Vec<Value> = held.history.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(held_rows, rows(&folder.join("wandb"))[0].0);
    assert_eq!((held.overwritten, held.gaps), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reaches_the_server_as_it_grows_and_ends() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let mut journal = journal(&folder.path().join("wandb"), false, 1_500);
    journal.append(&steps(1..=4)).unwrap();
    journal.append_stats(vec![Item::new("cpu", "12.5")]).unwrap();
    let mut uploader = hurried_uploader(folder.path(), &double);
    let uploading = tokio::spawn(async move { uploader.run().await });
    let held = |rows: usize| double.state.lock().runs.values().any(|run| run.history.len() == rows);
    until("the first rows", || held(4)).await;
    journal.append(&steps(5..=9)).unwrap();
    until("more rows", || held(9)).await;
    journal.finish(FINISHED).unwrap();
    until("the end", || double.state.lock().runs.values().any(|run| run.exit_code == Some(0))).await;
    assert_held(&double, folder.path());
    let (_, run) = double.only_run();
    assert_eq!(run.tags, json!(["5Fhotkey", "0.1.0", "netuid_1"]));
    assert_eq!(run.notes, "my notes");
    let config: Value = serde_json::from_str(&run.config).unwrap();
    assert_eq!(config["neuron"]["value"]["moving_average_alpha"], 0.05);
    let event: Value = serde_json::from_str(&run.events[0]).unwrap();
    assert_eq!((&event["system.cpu"], &event["_wandb"]), (&json!(12.5), &json!(true)));
    let summary: Value = serde_json::from_str(&run.summary).unwrap();
    assert_eq!((&summary["_step"], &summary["sequence"]), (&json!(8), &json!(9)));
    let run = runs::list(&folder.path().join("wandb")).unwrap().remove(0);
    until("the mark", || run.synced().exists()).await;
    uploading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_on_the_way_no_row_is_lost_or_doubled() {
    use Fault::{DropAfter, DropBefore, None, Status};
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let mut journal = journal(&folder.path().join("wandb"), false, 1_500);
    journal.append(&steps(1..=60)).unwrap();
    journal.finish(FINISHED).unwrap();
    let faults = [
        Status(503),
        None,
        Status(500),
        None,
        DropAfter,
        None,
        DropBefore,
        Status(429),
        Status(404),
        Status(413),
        DropAfter,
        DropAfter,
        None,
        None,
        Status(408),
        None,
        Status(401),
        Status(422),
        DropAfter,
        None,
        None,
        Status(502),
        DropBefore,
    ];
    double.fail(faults);
    let mut uploader = hurried_uploader(folder.path(), &double);
    let uploading = tokio::spawn(async move { uploader.run().await });
    until("the end", || double.state.lock().runs.values().any(|run| run.exit_code == Some(0))).await;
    uploading.abort();
    assert!(double.state.lock().faults.is_empty());
    assert!(double.requested("file_stream") > 10, "a request holds a few rows here");
    assert_held(&double, folder.path());
}

/// The child of the test below: uploads until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of the next test"]
async fn child_that_is_killed() {
    let (Some(folder), Ok(server)) = (std::env::var_os("TEST_FOLDER"), std::env::var("TEST_SERVER")) else { return };
    let server = Url::parse(&server).unwrap();
    uploader(Path::new(&folder), server, hurried(), SystemClock::shared()).run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_an_upload_loses_and_doubles_nothing() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let mut journal = journal(&folder.path().join("wandb"), false, 1_500);
    journal.append(&steps(1..=200)).unwrap();
    journal.finish(FINISHED).unwrap();
    let done = || double.state.lock().runs.values().any(|run| run.exit_code == Some(0));
    let held = || double.state.lock().runs.values().map(|run| run.history.len()).sum::<usize>();
    let mut kills = 0;
    while !done() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "wandb::uploader::tests::child_that_is_killed"])
            .env("TEST_FOLDER", folder.path())
            .env("TEST_SERVER", double.url().as_str())
            .stdout(Stdio::null())
            .spawn();
        let (mut child, before) = (child.unwrap(), held());
        // A few rows on, whatever it is doing then.
        until("a child to upload", || held() > before + 10 || done()).await;
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 3, "{kills}");
    assert_held(&double, folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_and_a_mended_one_is_used() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let mut journal = journal(&folder.path().join("wandb"), false, 1_500);
    journal.append(&steps(1..=3)).unwrap();
    let mut uploader = hurried_uploader(folder.path(), &double);
    let wrong = "f".repeat(40);
    std::fs::write(folder.path().join("key"), &wrong).unwrap();
    let error = uploader.upload(Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("The API key is not accepted") && error.contains("api_key_file"), "{error}");
    assert!(!error.contains(&wrong), "{error}");
    std::fs::write(folder.path().join("key"), KEY).unwrap();
    uploader.upload(Duration::ZERO).await.unwrap();
    assert_held(&double, folder.path());
    std::fs::remove_file(folder.path().join("key")).unwrap();
    uploader.upload(Duration::ZERO).await.unwrap();
}

/// A finished run of three rows for an entity that the key may not write to.
fn leave_a_strangers_run(wandb: &Path) {
    let mut stranger = journal(wandb, false, 1_500);
    let mut about = (*stranger.about).clone();
    about.entity = "opentensor-dev".into();
    stranger.about = Arc::new(about);
    stranger.append(&steps(1..=3)).unwrap();
    stranger.finish(FINISHED).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_the_key_may_not_write_is_told_and_other_runs_go_on() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    double.state.lock().writable = Some(OWNER);
    let wandb = folder.path().join("wandb");
    leave_a_strangers_run(&wandb);
    journal(&wandb, false, 1_500).append(&steps(4..=5)).unwrap();
    let error = hurried_uploader(folder.path(), &double).upload(Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("opentensor-dev/openvalidators") && error.contains("permission denied"), "{error}");
    assert!(error.contains("reporting.wandb.entity") && !error.contains('\u{1b}'), "{error}");
    let (name, run) = double.only_run();
    assert!(name.starts_with(OWNER) && run.history.len() == 2, "{name}");
}

/// Newer rows went out every ten minutes beside one, for as long as its log was on the disk.
#[tokio::test]
async fn a_run_that_is_refused_for_ever_does_not_slow_the_others() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    double.state.lock().writable = Some(OWNER);
    let wandb = folder.path().join("wandb");
    leave_a_strangers_run(&wandb);
    let mut ours = journal(&wandb, false, 1_500);
    ours.append(&steps(4..=4)).unwrap();
    let clock = DrivenClock::new(Duration::from_secs(1_795_339_100));
    let mut uploader = uploader(folder.path(), double.url(), Pace::default(), Arc::new(clock.clone()));
    let uploading = tokio::spawn(async move { uploader.run().await });
    // The first round asks for both runs; within the next minute only ours is spoken of.
    let asleep = async || until("a rest", || clock.sleepers() == 1).await;
    asleep().await;
    assert_eq!(double.requested("UpsertBucket"), 2);
    for rows in 2..=5 {
        ours.append(&steps(3 + rows..=3 + rows)).unwrap();
        clock.advance(Duration::from_secs(15));
        until("the row of the last 15 s", || {
            double.state.lock().runs.values().any(|run| run.history.len() as u64 == rows)
        })
        .await;
        asleep().await;
    }
    assert_eq!(double.requested("UpsertBucket"), 2);
    // After ten minutes the key is looked at anew, and the refused run is asked for again.
    clock.advance(Duration::from_secs(600));
    until("both runs asked for again", || double.requested("UpsertBucket") == 4).await;
    uploading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_from_the_servers_is_measured() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    double.state.lock().date = Some("Sun, 22 Nov 2026 09:00:00 GMT");
    journal(&folder.path().join("wandb"), false, 1_500).append(&steps(1..=1)).unwrap();
    let registry = Registry::new();
    let theirs = 1_795_338_000.0;
    let clock = Arc::new(DrivenClock::new(Duration::from_secs_f64(theirs + 300.0)));
    let metrics = WandbMetrics::new(&registry).unwrap();
    let places = places(folder.path(), KEY);
    let mut uploader = Uploader::new(folder.path().join("wandb"), double.url(), places, 5, hurried(), clock, metrics);
    uploader.upload(Duration::ZERO).await.unwrap();
    let exported = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(exported.contains("openvalidators_wandb_clock_skew_seconds 300"), "{exported}");
    assert_held(&double, folder.path());
}

/// The real client's: rows at most every 15 s, and `{}` after 30 s without.
#[tokio::test]
async fn the_cadence_is_the_real_clients() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let mut journal = journal(&folder.path().join("wandb"), false, 1_500);
    journal.append(&steps(1..=1)).unwrap();
    let clock = DrivenClock::new(Duration::from_secs(1_795_339_100));
    let mut uploader = uploader(folder.path(), double.url(), Pace::default(), Arc::new(clock.clone()));
    let uploading = tokio::spawn(async move { uploader.run().await });
    let asleep = async || until("a rest", || clock.sleepers() == 1).await;
    let second = async |seconds: u64| {
        for _ in 0..seconds {
            asleep().await;
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
        asleep().await;
    };
    second(0).await;
    assert_eq!(double.requested("file_stream"), 1, "the first rows go at once");
    journal.append(&steps(2..=2)).unwrap();
    second(14).await;
    journal.append(&steps(3..=3)).unwrap();
    assert_eq!(double.requested("file_stream"), 1);
    second(1).await;
    until("the next rows", || double.requested("file_stream") == 2).await;
    second(29).await;
    assert_eq!(double.requested("file_stream"), 2);
    second(1).await;
    until("a heartbeat", || double.requested("file_stream") == 3).await;
    assert_eq!(double.state.lock().requests.last().unwrap().1, json!({}));
    uploading.abort();
    assert_held(&double, folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_left_to_wandb_sync_are_left_and_uploaded_ones_are_dropped_in_time() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let wandb = folder.path().join("wandb");
    let mut offline = journal(&wandb, true, 1_500);
    offline.append(&steps(0..1)).unwrap();
    offline.finish(FINISHED).unwrap();
    let mut online = journal(&wandb, false, 1);
    online.append(&steps(0..90)).unwrap();
    online.finish(FINISHED).unwrap();
    hurried_uploader(folder.path(), &double).upload(Duration::ZERO).await.unwrap();
    assert_eq!(double.state.lock().runs.len(), 10);
    let left = runs::list(&wandb).unwrap();
    assert_eq!(left.iter().filter(|run| run.offline && !run.synced().exists()).count(), 1);
    assert_eq!(left.iter().filter(|run| !run.offline && run.synced().exists()).count(), 5);
    assert_eq!(left.len(), 6);
}

#[test]
fn progress_that_cannot_be_read_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run-a.wandb.upload");
    assert_eq!(load_progress(&path).unwrap(), Progress::default());
    let progress = Progress { position: 7, history_lines: 3, event_lines: 1 };
    save_progress(&path, progress).unwrap();
    assert_eq!(load_progress(&path).unwrap(), progress);
    std::fs::write(&path, "").unwrap();
    assert_eq!(load_progress(&path).unwrap(), Progress::default());
}
