//! `openvalidators models`, from outside.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Output,
};

use serde_json::Value;

use crate::program::{models, output, stderr};

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn column<'a>(lines: &'a [Value], name: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line[name].as_str()).collect()
}

#[test]
fn what_the_configuration_asks_for_is_listed_and_verified() {
    models();
    let listed = lines(&output(&["models", "list", "--json"]));
    assert_eq!(column(&listed, "model"), ["SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"]);
    assert_eq!(column(&listed, "state"), ["present", "present"]);
    assert_eq!(listed[0]["memory_bytes"]["f32"], 134_515_008_u64 * 4);
    assert_eq!(listed[2]["file_bytes"], 189_698_182_u64);
    let verified = output(&["models", "verify", "all-MiniLM-L6-v2", "--json"]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    let verified = lines(&verified);
    assert_eq!(column(&verified, "state"), ["present, verified"]);
    assert_eq!(verified[0]["sha256"].as_object().unwrap().len(), 6);
}

#[test]
fn what_is_missing_or_damaged_fails_to_verify() {
    let folder = tempfile::tempdir().unwrap();
    let set = format!("models.folder={:?}", folder.path());
    let verified = output(&["models", "verify", "--json", "--set", &set]);
    assert_eq!(verified.status.code(), Some(1));
    assert_eq!(column(&lines(&verified), "state"), ["missing", "missing"]);
    let model = folder.path().join("all-MiniLM-L6-v2");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), vec![b' '; 612]).unwrap();
    let verified = output(&["models", "verify", "all-MiniLM-L6-v2", "--set", &set]);
    let told = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert_eq!(verified.status.code(), Some(1));
    assert!(told.contains("damaged") && told.contains("953f9c0d4634") && told.contains("models fetch"), "{told}");
    let unknown = output(&["models", "fetch", "nothing-of-that-name"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("nothing-of-that-name") && stderr(&unknown).contains("btlm-3b-8k-base"));
}

#[test]
fn a_profile_lists_its_stack_and_all_means_all() {
    let folder = tempfile::tempdir().unwrap();
    let set = format!("models.folder={:?}", folder.path());
    let listed = lines(&output(&["models", "list", "--profile", "full", "--json", "--set", &set]));
    let names = column(&listed, "model");
    assert_eq!(names.len(), 6);
    assert!(names.contains(&"gpt-j_rm_format-oa") && listed[6]["file_bytes_exact"] == false);
    assert_eq!(lines(&output(&["models", "list", "--all", "--json", "--set", &set])).len(), 13);
}

/// What `configs/medium.toml` says it takes.
const MEDIUM_GIGABYTES: f64 = 20.6;

/// Before anything is fetched or loaded: no folder, no network, no state.
#[test]
fn what_does_not_fit_into_memory_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (state, set) = (folder.path().join("state"), format!("models.folder={:?}", folder.path().join("models")));
    let much = "inference.batch_tokens=100000000";
    let address = "reporting.metrics.address=127.0.0.1:0";
    let state = state.to_str().unwrap();
    let args = ["run", "--steps", "1", "--state-dir", state, "--set", &set, "--set", much, "--set", address];
    let refused = output(&args);
    let told = stderr(&refused);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    // The largest profile that fits: how much is free is the machine's to say, what follows from it is not.
    let gigabytes = |before: &str| -> f64 {
        let (_, rest) = told.split_once(before).unwrap_or_else(|| panic!("`{before}` is not in: {told}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (free, takes) = (gigabytes("of which "), gigabytes("` fits; it takes "));
    let fitting = if free >= MEDIUM_GIGABYTES { "`--profile medium` fits" } else { "`--profile cpu` fits" };
    for words in ["SmolLM2-135M-Instruct 538.1 MB (f32)", "26214.5 GB to work in", fitting, "check_memory"] {
        assert!(told.contains(words), "`{words}` is not in: {told}");
    }
    assert!(takes <= free, "{told}");
    assert!(!folder.path().join("models").exists());
}

/// What an operator names in the configuration is asked of the hub that the environment names.
#[test]
fn a_model_of_the_configuration_is_fetched_by_its_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (folder, address) = (tempfile::tempdir().unwrap(), listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nx-error-code: GatedRepo\r\ncontent-length: 0\r\n\r\n").unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let sets = [
        format!("models.folder={:?}", folder.path().join("ours")),
        format!("models.hugging_face_cache={:?}", folder.path().join("hub")),
        format!("models.hugging_face_endpoint=\"http://{address}\""),
        "models.catalogue.\"mine-1.5\"={ repository = \"owner/gated\", revision = \"v2\" }".to_owned(),
    ];
    let mut args = vec!["models", "fetch", "mine-1.5"];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    let told = stderr(&output(&args));
    assert!(told.contains("mine-1.5") && told.contains("accept its terms") && told.contains("owner/gated"), "{told}");
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("GET /api/models/owner/gated/revision/v2?blobs=true "), "{asked}");
}
