use openvalidators_messages::{Hotkey, Sequence, Uid, gating::HeadRow};
use safetensors::SafeTensors;

use super::*;
use crate::{
    testing::steps,
    wandb::{
        journal::{FINISHED, tests::journal},
        runs,
        server_double::{Double, Fault, KEY},
        uploader::tests::hurried_uploader,
    },
};

/// Of uids 1 and 3, with embeddings of two numbers.
pub(in crate::wandb) fn head(first: f32) -> HeadTable {
    let row = |uid: u16, parameters: &[f32]| HeadRow {
        uid: Uid(uid),
        hotkey: Hotkey([u8::try_from(uid).unwrap(); 32]),
        parameters: parameters.to_vec(),
    };
    HeadTable { sequence: Sequence(7), width: 2, rows: vec![row(3, &[first, 1.5, -1.0]), row(1, &[0.25, 0.5, 2.0])] }
}

#[test]
fn the_file_is_the_references_layer_by_uid() {
    let bytes = file_of(&head(4.0)).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name| {
        let (numbers, _) = read.tensor(name).unwrap().data().as_chunks::<4>();
        numbers.iter().map(|number| f32::from_le_bytes(*number)).collect::<Vec<_>>()
    };
    assert_eq!(read.tensor("weight").unwrap().shape(), [4, 2]);
    assert_eq!(values("weight"), [0.0, 0.0, 0.25, 0.5, 0.0, 0.0, 4.0, 1.5]);
    assert_eq!(values("bias"), [0.0, 2.0, 0.0, -1.0]);
    let (_, about) = SafeTensors::read_metadata(&bytes).unwrap();
    let hotkeys: Vec<String> = serde_json::from_str(&about.metadata().as_ref().unwrap()["hotkeys"]).unwrap();
    assert_eq!(hotkeys, ["".into(), ss58::encode(&Hotkey([1; 32])), "".into(), ss58::encode(&Hotkey([3; 32]))]);
    let mut torn = head(1.0);
    torn.rows[0].parameters.pop();
    assert!(file_of(&torn).unwrap_err().to_string().contains("uid 3 has 1 weights, not 2"));
}

/// What client 0.31.0 sent for a file with this digest.
#[test]
fn a_manifest_is_digested_as_by_the_real_client() {
    let (path, digest) = ("gating_linear_layer.pth".to_owned(), "OYUz1IER6fZksfZMsQxLYw==".to_owned());
    let entry = ManifestEntry { path, digest, size: 1_000, local_path: String::new() };
    assert_eq!(digest_of(&entry), "55b72dedb14d1c27464957a91768270a");
    assert_eq!(name("facebook/bart"), "facebook_bart_gating_linear_layer");
}

/// Twice the same head is one version; what fails on the way doubles none, and nothing is left on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn each_head_is_one_version_whatever_fails() {
    use Fault::{DropAfter, DropBefore, None, Status};
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let wandb = folder.path().join("wandb");
    let mut journal = journal(&wandb, false, 1_500);
    assert!(!journal.append_head(&head(0.0)).unwrap(), "no run is open");
    journal.append(&steps(1..=3)).unwrap();
    assert!(journal.append_head(&head(1.0)).unwrap());
    assert!(!journal.append_head(&head(1.0)).unwrap(), "it has learned nothing");
    journal.append(&steps(4..=5)).unwrap();
    assert!(journal.append_head(&head(2.0)).unwrap());
    assert!(!journal.append_head(&HeadTable::default()).unwrap());
    journal.finish(FINISHED).unwrap();
    let run = runs::list(&wandb).unwrap().remove(0);
    assert_eq!(std::fs::read_dir(run.path.join(FOLDER)).unwrap().count(), 2);
    // Viewer and UpsertBucket, then the calls of artifacts; one fault less than rows would wait for.
    let faults = [None, None, Status(503), None, None, DropAfter, None, DropBefore, None, None, None, Status(500)];
    double.fail(faults.into_iter().chain([None, None, None, None, DropAfter]));
    let mut uploader = hurried_uploader(folder.path(), &double);
    let uploading = tokio::spawn(async move { uploader.run().await });
    crate::wandb::server_double::until("the end", || run.synced().exists()).await;
    uploading.abort();
    let state = double.state.lock();
    assert!(state.faults.is_empty());
    let versions: Vec<_> = state.artifacts.values().filter(|version| version.is_committed).collect();
    let files: Vec<_> = versions.iter().map(|version| version.files.values().next().unwrap().clone()).collect();
    assert_eq!(files, [file_of(&head(1.0)).unwrap(), file_of(&head(2.0)).unwrap()]);
    assert_eq!(state.runs.values().next().unwrap().history.len(), 5);
    assert_eq!(std::fs::read_dir(run.path.join(FOLDER)).unwrap().count(), 0, "what is uploaded is not kept");
    assert!(!state.artifact_puts_with_key, "the key {KEY} goes to the server alone");
}

/// Rows matter more than what goes with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_artifact_keeps_no_row_back() {
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let mut journal = journal(&folder.path().join("wandb"), false, 1_500);
    journal.append(&steps(1..=3)).unwrap();
    journal.append_head(&head(1.0)).unwrap();
    double.fail([Fault::None, Fault::None, Fault::Status(403)]);
    hurried_uploader(folder.path(), &double).flush().await;
    assert_eq!(double.only_run().1.history.len(), 3);
    assert!(double.state.lock().artifacts.is_empty());

    // The storage does not answer, and the rest does.
    journal.append(&steps(4..=5)).unwrap();
    journal.append_head(&head(2.0)).unwrap();
    double.state.lock().storage_is_away = true;
    let mut uploader = hurried_uploader(folder.path(), &double);
    let uploading = tokio::spawn(async move { uploader.run().await });
    let held = || double.state.lock().runs.values().any(|run| run.history.len() == 5);
    crate::wandb::server_double::until("the rows", held).await;
    uploading.abort();
    assert!(double.state.lock().artifacts.values().all(|version| !version.is_committed));
}
