use openvalidators_runtime::SystemClock;

use super::*;
use crate::wandb::server_double::{Double, Fault, KEY, OWNER, RunState};

fn api(double: &Double, key: &str) -> PublicApi {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, key).unwrap();
    let key = Places { file: Some(file), ..Places::default() }.find().unwrap().unwrap();
    PublicApi::with(double.url(), key, SystemClock::shared()).unwrap()
}

/// Five runs of ten rows; the first three are of 1.2.0.
async fn served() -> (Double, RunPath) {
    let double = Double::start().await;
    for number in 0..5 {
        let row = |step: i64| json!({ "_step": step, "name": "augment" }).to_string();
        let tags = if number < 3 { json!(["1.2.0", "netuid_1"]) } else { json!(["1.1.0", "netuid_1"]) };
        let run = RunState { history: (0..10).map(row).collect(), tags, exit_code: Some(0), ..RunState::default() };
        double.state.lock().runs.insert(format!("{OWNER}/openvalidators/run{number}"), run);
    }
    (double, format!("{OWNER}/openvalidators").parse().unwrap())
}

#[test]
fn paths_are_read_as_people_write_them() {
    let path = |text: &str| text.parse::<RunPath>().map(|path| path.to_string());
    assert_eq!(path("a/b"), Ok("a/b".into()));
    assert_eq!(path("a/b/runs/c/"), Ok("a/b/c".into()), "as in a browser");
    for wrong in ["", "a", "a//b", "a/b c", "a/b/c/d"] {
        assert!(path(wrong).unwrap_err().contains("ENTITY/PROJECT"), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_over_pages_and_must_have_every_tag() {
    let (double, path) = served().await;
    double.state.lock().runs_page = Some(2);
    let ids = async |tags: &[&str]| {
        let tags: Vec<_> = tags.iter().map(|&tag| tag.to_owned()).collect();
        let runs = api(&double, KEY).runs(&path, &tags).await.unwrap();
        runs.into_iter().map(|run| (run.id, run.rows, run.state)).collect::<Vec<_>>()
    };
    let all = ids(&[]).await;
    assert_eq!(all.len(), 5);
    assert_eq!(all[4], ("run4".into(), 10, "finished".into()));
    assert_eq!(double.requested("Runs"), 3);
    assert_eq!(ids(&["netuid_1", "1.2.0"]).await.len(), 3);
    assert_eq!(ids(&["1.1.0", "1.2.0"]).await.len(), 0, "the reference's filter took either");
    let one = RunPath { run: Some("run3".into()), ..path.clone() };
    assert_eq!(api(&double, KEY).runs(&one, &[]).await.unwrap()[0].id, "run3");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_pages_and_the_older_ones_from_exports() {
    let (double, path) = served().await;
    let api = api(&double, KEY);
    let extent = api.extent(&path, "run0").await.unwrap();
    assert_eq!(extent, Extent { end: 10, exports: vec![], live_from: 0 });
    let rows = api.rows(&path, "run0", 3..5).await.unwrap();
    let steps: Vec<_> = rows.iter().map(|row| serde_json::from_str::<Value>(row).unwrap()["_step"].clone()).collect();
    assert_eq!(steps, [3, 4]);
    double.state.lock().exports.insert(format!("{path}/run1"), (vec![b"one".to_vec(), b"two".to_vec()], 7));
    let extent = api.extent(&path, "run1").await.unwrap();
    assert_eq!((extent.end, extent.exports.len(), extent.live_from), (10, 2, 7));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export");
    double.fail([Fault::Busy("0.01")]);
    assert_eq!(api.fetch(&extent.exports[1], &file).await.unwrap(), 3);
    assert_eq!(std::fs::read(&file).unwrap(), b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again_when_it_says() {
    let (double, path) = served().await;
    double.fail([Fault::Busy("0.02"), Fault::Busy("0.01"), Fault::None, Fault::Busy("0")]);
    assert_eq!(api(&double, KEY).runs(&path, &[]).await.unwrap().len(), 5);
    assert_eq!(double.requested("failed 429"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_with_its_remedy() {
    let (double, path) = served().await;
    let error = async |api: &PublicApi, path: &str| {
        let path = path.parse().unwrap();
        api.runs(&path, &[]).await.unwrap_err().to_string()
    };
    let stranger = api(&double, &KEY.replace('0', "f"));
    let said = error(&stranger, &path.to_string()).await;
    assert!(said.contains("The API key is not accepted: check WANDB_API_KEY, or netrc"), "{said}");
    assert_eq!(double.requested("Runs"), 0);
    let ours = api(&double, KEY);
    assert!(error(&ours, "nobody/nothing").await.contains("wandb shows no project nobody/nothing to this key"));
    let said = error(&ours, &format!("{path}/lost")).await;
    assert!(said.contains(&format!("wandb shows no run {path}/lost to this key")), "{said}");
}
