//! Models that nobody has pinned, and the cache shared with Hugging Face's own tools.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{
    COMMIT, FlyingClock, Heard,
    server::{Fault, HubFile, Server},
    sha256,
};
use crate::{Catalogue, Entry, Hub, HubConfig, HubError, Look, ModelFile, ModelState, Silent, Trust};

const REPOSITORY: &str = "owner/reward-model";
const LISTING: &str = "/api/models/owner/reward-model/revision/main";

/// A hub, the server it keeps large files on, and a folder of ours beside a cache of everybody's.
struct Bench {
    hub: Server,
    storage: Server,
    root: tempfile::TempDir,
    clock: Arc<FlyingClock>,
    weights: Vec<u8>,
    config: HubConfig,
}

impl Bench {
    async fn new() -> Self {
        let (hub, storage, root) = (Server::start().await, Server::start().await, tempfile::tempdir().unwrap());
        let config = HubConfig {
            folder: Some(root.path().join("ours")),
            hugging_face_cache: Some(root.path().join("hub")),
            hugging_face_endpoint: Some(hub.url("")),
            python_package_index: Some(hub.url("/simple")),
            attempts: 3.try_into().unwrap(),
            ..HubConfig::default()
        };
        let weights = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let bench = Self { hub, storage, root, clock: Arc::default(), weights, config };
        bench.serve(&[("model.safetensors", &bench.weights)]);
        bench
    }

    /// A repository of these large files, a config, a tokenizer, and what nobody wants.
    fn serve(&self, large: &[(&str, &[u8])]) {
        let small: [(&str, &[u8]); 4] = [
            ("config.json", br#"{"model_type": "bert"}"#),
            ("tokenizer.json", b"{}"),
            ("README.md", b"read"),
            ("modeling.py", b"import os"),
        ];
        let file = |(name, content), large| HubFile { name, content, large };
        let files: Vec<_> =
            small.into_iter().map(|it| file(it, false)).chain(large.iter().map(|it| file(*it, true))).collect();
        self.hub.serve_repository(REPOSITORY, COMMIT, "main", &files, &self.storage);
    }

    fn entry() -> Entry {
        Entry { repository: Some(REPOSITORY.into()), ..Entry::default() }
    }

    fn of(&self, entry: Entry) -> Hub {
        self.under(&self.config, entry)
    }

    fn under(&self, config: &HubConfig, entry: Entry) -> Hub {
        let catalogue = Catalogue { models: [("rm".to_owned(), entry)].into() };
        let variable = |name: &str| match name {
            "HF_TOKEN" => Some("hf_secret".to_owned()),
            "PIP_CONFIG_FILE" => Some("/dev/null".to_owned()),
            _ => None,
        };
        Hub::with(config, catalogue, self.clock.clone(), &variable).unwrap()
    }

    async fn refused(&self, entry: Entry) -> String {
        self.of(entry).ensure("rm", &Silent).await.unwrap_err().to_string()
    }

    fn ours(&self, name: &str) -> PathBuf {
        self.root.path().join("ours/rm").join(name)
    }

    fn shared(&self, name: &str) -> PathBuf {
        self.root.path().join("hub/models--owner--reward-model").join(name)
    }

    /// Requests of both servers.
    fn requests(&self) -> usize {
        self.hub.seen().len() + self.storage.seen().len()
    }
}

#[tokio::test]
async fn the_first_fetch_is_written_down_and_the_cache_is_everybodys() {
    let bench = Bench::new().await;
    let hub = bench.of(Bench::entry());
    assert_eq!(hub.files("rm").unwrap(), (Trust::Open, vec![]));
    assert_eq!(hub.state("rm", Look::Digests).unwrap(), ModelState::Missing);
    let fetched = hub.ensure("rm", &Silent).await.unwrap();
    assert_eq!(fetched.digests["model.safetensors"], sha256(&bench.weights));
    let names: Vec<&str> = fetched.digests.keys().map(String::as_str).collect();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"], "no code, no prose");

    // The layout of Hugging Face's tools, with relative links.
    assert_eq!(fs::read_to_string(bench.shared("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(bench.shared("snapshots").join(COMMIT).join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&bench.weights)));
    assert_eq!(fs::read(bench.ours("model.safetensors")).unwrap(), bench.weights);
    let blobs: Vec<_> = fs::read_dir(bench.shared("blobs")).unwrap().map(|blob| blob.unwrap().file_name()).collect();
    assert_eq!(blobs.len(), 3, "nothing unfinished is left: {blobs:?}");

    // The token is the hub's, not its storage's.
    assert!(bench.hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(bench.storage.seen().iter().all(|seen| seen.authorization.is_none()));

    let before = bench.requests();
    assert_eq!(bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap(), fetched);
    assert_eq!(bench.requests(), before, "what is here needs no network");
    let (trust, files) = bench.of(Bench::entry()).files("rm").unwrap();
    assert_eq!((trust, files.len()), (Trust::Remembered, 3));
}

#[tokio::test]
async fn what_was_written_down_holds_though_the_branch_moves() {
    let bench = Bench::new().await;
    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    let moved = "f".repeat(40);
    let other = HubFile { name: "model.safetensors", content: b"other weights", large: true };
    bench.hub.serve_repository(REPOSITORY, &moved, "main", &[other], &bench.storage);
    fs::write(bench.ours("model.safetensors"), b"damaged").unwrap();
    let error = bench.of(Bench::entry()).open("rm").unwrap_err();
    assert!(matches!(error, HubError::Corrupted { .. }), "{error}");
    let again = bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    assert_eq!(again.digests["model.safetensors"], sha256(&bench.weights), "from the commit that was trusted");
    // Another question is another answer.
    let asked = Entry { revision: Some(moved.clone()), weights: Some("model.safetensors".into()), ..Bench::entry() };
    assert_eq!(bench.of(asked.clone()).files("rm").unwrap().0, Trust::Open);
    let other = bench.of(asked).ensure("rm", &Silent).await.unwrap();
    assert_eq!(other.digests["model.safetensors"], sha256(b"other weights"));
}

#[tokio::test]
async fn the_manifest_pins_the_model_where_only_pinned_ones_are_wanted() {
    let bench = Bench::new().await;
    let strict = HubConfig { require_pinned: true, ..bench.config.clone() };
    let error = bench.under(&strict, Bench::entry()).ensure("rm", &Silent).await.unwrap_err().to_string();
    assert!(error.contains("require_pinned") && error.contains("manifest.toml"), "{error}");
    assert_eq!(bench.requests(), 0);

    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    let manifest: toml::Table = fs::read_to_string(bench.ours("manifest.toml")).unwrap().parse().unwrap();
    let pinned: Entry = manifest["models"]["catalogue"]["rm"].clone().try_into().unwrap();
    assert_eq!(pinned.revision.as_deref(), Some(COMMIT));
    let (before, elsewhere) = (bench.requests(), HubConfig { folder: Some(bench.root.path().join("new")), ..strict });
    bench.under(&elsewhere, pinned).ensure("rm", &Silent).await.unwrap();
    assert_eq!(bench.requests(), before, "the cache has it all");
}

#[tokio::test]
async fn shards_are_those_that_the_index_names() {
    let bench = Bench::new().await;
    let index = br#"{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}"#;
    let (one, two): (&[u8], &[u8]) = (&bench.weights[..9_000], &bench.weights[9_000..]);
    bench.serve(&[
        ("model.safetensors.index.json", index),
        ("model-1-of-2.safetensors", one),
        ("model-2-of-2.safetensors", two),
        ("pytorch_model-1-of-2.bin", b"not wanted"),
    ]);
    let fetched = bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    assert_eq!(fetched.digests.len(), 5);
    assert_eq!(fs::read(bench.ours("model-2-of-2.safetensors")).unwrap(), two);
    bench.serve(&[("model.safetensors.index.json", br#"{"weight_map": {"a": "model-3-of-2.safetensors"}}"#)]);
    fs::remove_dir_all(bench.root.path().join("ours")).unwrap();
    let error = bench.refused(Bench::entry()).await;
    assert!(error.contains("model-3-of-2.safetensors") && error.contains("not listed"), "{error}");
}

/// As the reward model of Dahoas, which is a bare checkpoint.
#[tokio::test]
async fn config_and_tokenizer_may_come_from_another_repository() {
    let bench = Bench::new().await;
    let checkpoint = HubFile { name: "hf_ckpt.pt", content: b"weights", large: true };
    let stray = HubFile { name: "config.json", content: b"not this one", large: false };
    bench.hub.serve_repository("owner/checkpoint", COMMIT, "main", &[checkpoint, stray], &bench.storage);
    let entry: Entry = toml::from_str(
        "repository = 'owner/checkpoint'\nweights = 'hf_ckpt.pt'\ntokenizer = { repository = 'owner/reward-model' }",
    )
    .unwrap();
    let fetched = bench.of(entry.clone()).ensure("rm", &Silent).await.unwrap();
    let names: Vec<&str> = fetched.digests.keys().map(String::as_str).collect();
    assert_eq!(names, ["config.json", "hf_ckpt.pt", "tokenizer.json"]);
    assert_eq!(fs::read(bench.ours("config.json")).unwrap(), br#"{"model_type": "bert"}"#);
    // Fetched again, each from where it came.
    for folder in [
        "ours/rm/config.json",
        "ours/rm/hf_ckpt.pt",
        "hub/models--owner--reward-model",
        "hub/models--owner--checkpoint",
    ] {
        let path = bench.root.path().join(folder);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    assert_eq!(bench.of(entry).ensure("rm", &Silent).await.unwrap(), fetched);
}

#[tokio::test]
async fn what_other_tools_fetched_is_found_without_the_network() {
    let bench = Bench::new().await;
    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    fs::remove_dir_all(bench.root.path().join("ours")).unwrap();
    let offline = HubConfig { offline: true, ..bench.config.clone() };
    let before = bench.requests();
    let found = bench.under(&offline, Bench::entry()).ensure("rm", &Silent).await.unwrap();
    assert_eq!(found.digests["model.safetensors"], sha256(&bench.weights));
    assert_eq!(bench.requests(), before);

    // A copy that is not what its name says is not taken.
    fs::remove_dir_all(bench.root.path().join("ours")).unwrap();
    fs::write(bench.shared("snapshots").join(COMMIT).join("config.json"), "{}").unwrap();
    let error = bench.under(&offline, Bench::entry()).ensure("rm", &Silent).await.unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("damaged"), "{error}");
    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    let unknown = Entry { repository: Some("owner/other".into()), ..Entry::default() };
    let error = bench.under(&offline, unknown).ensure("rm", &Silent).await.unwrap_err().to_string();
    assert!(error.contains("owner/other") && error.contains("offline"), "{error}");
}

#[tokio::test]
async fn an_unfinished_download_of_another_tool_is_gone_on_with() {
    let bench = Bench::new().await;
    let blob = bench.shared("blobs").join(sha256(&bench.weights));
    fs::create_dir_all(bench.shared("blobs")).unwrap();
    fs::write(blob.with_extension("incomplete"), &bench.weights[..150_000]).unwrap();
    let begun = bench.of(Bench::entry()).state("rm", Look::Sizes).unwrap();
    assert_eq!(begun, ModelState::Partial { missing: vec![], unfinished_bytes: 150_000 });
    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    assert_eq!(fs::read(&blob).unwrap(), bench.weights);
    let asked = bench.hub.seen().into_iter().filter(|seen| seen.method == "GET" && seen.path.ends_with("safetensors"));
    assert_eq!(asked.map(|seen| seen.range).collect::<Vec<_>>(), [Some("bytes=150000-".to_owned())]);

    // Half of something else: told by its sha256, and fetched whole.
    fs::remove_dir_all(bench.root.path().join("ours")).unwrap();
    fs::remove_file(&blob).unwrap();
    fs::write(blob.with_extension("incomplete"), vec![7; 1_000]).unwrap();
    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    assert_eq!(fs::read(&blob).unwrap(), bench.weights);
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let bench = Bench::new().await;
    for (status, code, words) in [
        (401, "GatedRepo", ["accept its terms", "/owner/reward-model", "HF_TOKEN"]),
        (403, "GatedRepo", ["accept its terms", "/owner/reward-model", "HF_TOKEN"]),
        (401, "RepoNotFound", ["no such repository", "private", "HF_TOKEN"]),
        (404, "RevisionNotFound", ["no revision `main`", "404", "rm"]),
        (404, "", ["no such repository", "`owner/reward-model`", "`main`"]),
    ] {
        bench.hub.fault(LISTING, Fault::Refuse(status, "x-error-code", code));
        let error = bench.refused(Bench::entry()).await;
        assert!(words.iter().all(|word| error.contains(word)), "{code}: {error}");
        assert!(error.contains("models.catalogue.\"rm\".directory") && !error.contains("hf_secret"), "{error}");
    }
    assert!(bench.clock.pauses.lock().unwrap().is_empty(), "a refusal is an answer, not a reason to wait");
}

#[tokio::test]
async fn a_hub_that_asks_for_patience_gets_it() {
    let bench = Bench::new().await;
    bench.hub.fault(LISTING, Fault::Refuse(429, "retry-after", "7"));
    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    assert_eq!(*bench.clock.pauses.lock().unwrap(), [std::time::Duration::from_secs(7)]);
}

#[tokio::test]
async fn what_is_not_what_the_hub_said_is_not_kept() {
    let bench = Bench::new().await;
    bench.hub.fault(LISTING, Fault::Portal);
    let error = bench.refused(Bench::entry()).await;
    assert!(error.contains("not the JSON of a hub") && error.contains("<html>"), "{error}");

    let stored = format!("/lfs/{}", sha256(&bench.weights));
    let mut other = bench.weights.clone();
    other[7] ^= 1;
    bench.storage.fault(&stored, Fault::Change(other));
    let error = bench.refused(Bench::entry()).await;
    assert!(error.contains("model.safetensors: sha256 is"), "{error}");
    assert!(!bench.shared("blobs").join(sha256(&bench.weights)).exists() && !bench.ours("manifest.toml").exists());

    let bench = Bench::new().await;
    bench.hub.fault(&format!("/{REPOSITORY}/resolve/{COMMIT}/config.json"), Fault::Change(vec![b'x'; 22]));
    let error = bench.refused(Bench::entry()).await;
    assert!(error.contains("config.json: its contents are not those that its etag names"), "{error}");

    // The hub has other weights than the ones pinned: told before they are fetched.
    let pinned = ModelFile { name: "model.safetensors".into(), bytes: 400_000, sha256: "0".repeat(64), from: None };
    let entry = Entry { revision: Some(COMMIT.into()), files: vec![pinned], ..Bench::entry() };
    let error = bench.refused(entry).await;
    assert!(error.contains(&sha256(&bench.weights)) && error.contains("expected 0000"), "{error}");
    assert!(bench.storage.seen().is_empty());
}

#[tokio::test]
async fn a_download_through_a_redirect_resumes() {
    let bench = Bench::new().await;
    bench.storage.fault(&format!("/lfs/{}", sha256(&bench.weights)), Fault::Truncate(70_000));
    let heard = Heard::default();
    bench.of(Bench::entry()).ensure("rm", &heard).await.unwrap();
    assert_eq!(bench.storage.seen().pop().unwrap().status, 206);
    assert!(heard.0.lock().unwrap().iter().any(|event| event.contains("Retrying")));
}

#[tokio::test]
async fn two_programs_at_once_fetch_once() {
    let bench = Bench::new().await;
    let elsewhere = HubConfig { folder: Some(bench.root.path().join("theirs")), ..bench.config.clone() };
    let (ours, theirs) = (bench.of(Bench::entry()), bench.under(&elsewhere, Bench::entry()));
    let (one, other) = tokio::join!(ours.ensure("rm", &Silent), theirs.ensure("rm", &Silent));
    assert_eq!(one.unwrap().digests, other.unwrap().digests);
    assert_eq!(bench.storage.seen().len(), 1, "the lock is that of the cache, whatever folder is ours");
}

#[tokio::test]
async fn a_folder_of_the_operators_is_taken_as_it_is() {
    let bench = Bench::new().await;
    let entry = Entry { directory: Some(bench.root.path().join("mine")), ..Entry::default() };
    let error = bench.refused(entry.clone()).await;
    assert!(error.contains("\"rm\".directory") && error.contains("mine is no folder"), "{error}");
    fs::create_dir(bench.root.path().join("mine")).unwrap();
    let found = bench.of(entry).ensure("rm", &Silent).await.unwrap();
    assert_eq!(found.path, bench.root.path().join("mine"));
    assert_eq!(bench.requests(), 0);
}

/// Both directions, with the real `huggingface_hub`, where a Python that has it is at hand (`OPENVALIDATORS_PYTHON`).
#[tokio::test(flavor = "multi_thread")]
async fn huggingface_hub_finds_what_we_fetch_and_we_find_what_it_fetches() {
    let python = std::env::var("OPENVALIDATORS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = |code: &str, bench: &Bench| {
        let mut command = Command::new(&python);
        command.args(["-c", code]).env("HF_ENDPOINT", bench.hub.url("")).env("HF_HUB_DISABLE_TELEMETRY", "1");
        command.env("CACHE", bench.root.path().join("hub")).env("HF_TOKEN", "hf_secret").output()
    };
    let bench = Bench::new().await;
    if !run("import huggingface_hub", &bench).is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: `{python}` has no huggingface_hub; name one that has in OPENVALIDATORS_PYTHON");
        return;
    }
    let said = |code: &str, bench: &Bench| {
        let output = run(code, bench).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };

    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    let look = "
import os
from huggingface_hub import scan_cache_dir, try_to_load_from_cache, hf_hub_download
cache = os.environ['CACHE']
found = scan_cache_dir(cache)
# Versions before 0.20 do not know the folder of locks that later ones make.
assert all('/.locks' in str(warning) for warning in found.warnings), found.warnings
[repo] = found.repos
assert repo.repo_id == 'owner/reward-model' and list(repo.refs) == ['main'], repo
path = try_to_load_from_cache('owner/reward-model', 'model.safetensors', cache_dir=cache, revision='main')
assert path == hf_hub_download('owner/reward-model', 'model.safetensors', cache_dir=cache, local_files_only=True)
print(len(open(path, 'rb').read()), repo.nb_files)
";
    assert_eq!(said(look, &bench).trim(), format!("{} 3", bench.weights.len()));

    let bench = Bench::new().await;
    let fetch = "
import os
from huggingface_hub import hf_hub_download
for name in ['config.json', 'tokenizer.json', 'model.safetensors']:
    hf_hub_download('owner/reward-model', name, cache_dir=os.environ['CACHE'])
";
    said(fetch, &bench);
    let before = bench.storage.seen().len();
    bench.of(Bench::entry()).ensure("rm", &Silent).await.unwrap();
    assert_eq!(bench.storage.seen().len(), before, "the weights were there");
}

/// A small file system of its own, where the machine lets a test mount one. What came before it was full is not asked again.
#[tokio::test]
async fn a_disk_that_is_full_is_told_and_the_rest_comes_once_there_is_room() {
    let bench = Bench::new().await;
    let disk = bench.root.path().join("hub");
    fs::create_dir_all(&disk).unwrap();
    let mount = |options: &str| {
        let ended = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk).output();
        ended.is_ok_and(|ended| ended.status.success())
    };
    if !mount("size=200k") {
        return eprintln!("SKIPPED: this machine mounts nothing for a test");
    }
    let full = bench.of(Bench::entry()).ensure("rm", &Silent).await;
    let grown = mount("remount,size=8m");
    let fetched = bench.of(Bench::entry()).ensure("rm", &Silent).await;
    let unmounted = Command::new("umount").arg("--lazy").arg(&disk).status();
    assert!(grown && unmounted.unwrap().success());
    let error = full.unwrap_err();
    let told = error.to_string();
    assert!(
        matches!(error, HubError::Cache(_)) && told.contains("No space left") && told.contains("disk full"),
        "{told}"
    );
    assert_eq!(fetched.unwrap().digests["model.safetensors"], sha256(&bench.weights));
    let weights = bench.storage.seen().into_iter().filter(|seen| seen.range.is_some()).count();
    assert!(weights >= 1, "the second fetch goes on where the first ended: {:?}", bench.storage.seen());
}
