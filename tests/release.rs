//! `scripts/release` in a clone: what it would change, what it makes, and what it refuses.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

/// A clone with the scripts and files of this tree as they are now.
fn clone() -> tempfile::TempDir {
    let (root, clone) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
    for file in
        ["Cargo.toml", "Cargo.lock", "CHANGELOG.md", "scripts/release", "actors/ledger/src/open.rs", ".gitignore"]
    {
        let to = clone.path().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root.join(file), to).unwrap();
    }
    let changelog = "# Changelog\n\n## Unreleased\n\n### Added\n- Something.\n\n## 0.0.1 - 2020-01-01\n- Old.\n";
    std::fs::write(clone.path().join("CHANGELOG.md"), changelog).unwrap();
    git(clone.path(), &["init", "--quiet", "--initial-branch=main"]);
    git(clone.path(), &["add", "--all"]);
    git(clone.path(), &["commit", "--quiet", "--message", "Begin"]);
    clone
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"];
    let ended = Command::new("git").current_dir(folder).args(identity).args(arguments).output().unwrap();
    assert!(ended.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

fn release(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(folder.join("scripts/release"));
    for (name, value) in [("AUTHOR", "Test"), ("COMMITTER", "Test")] {
        command.env(format!("GIT_{name}_NAME"), value).env(format!("GIT_{name}_EMAIL"), "test@example.org");
    }
    command.current_dir(folder).env("MINISIGN", folder.join("../sign")).args(arguments).output().unwrap()
}

fn refused(folder: &Path, arguments: &[&str], word: &str) {
    let ended = release(folder, arguments);
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{told}");
    assert!(told.contains(word), "`{word}` is not in: {told}");
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let clone = clone();
    let before = git(clone.path(), &["rev-parse", "HEAD"]);
    let ended = release(clone.path(), &["99.0.0", "--dry-run"]);
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}{}", String::from_utf8_lossy(&ended.stderr));
    for word in ["+version = \"99.0.0\"", "+## 99.0.0 - 20", "Cargo.lock", "nothing was changed"] {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
    assert_eq!(git(clone.path(), &["rev-parse", "HEAD"]), before);
    assert_eq!(git(clone.path(), &["status", "--porcelain"]) + &git(clone.path(), &["tag"]), "");
    assert_eq!(git(clone.path(), &["worktree", "list"]).lines().count(), 1);
}

#[test]
fn what_is_no_release_is_refused() {
    let clone = clone();
    let folder = clone.path();
    refused(folder, &["--dry-run"], "name a version");
    refused(folder, &["0.0.1", "--dry-run"], "is not newer than");
    refused(folder, &["99.0.0"], "--key");
    refused(folder, &["99.0.0", "--key", "/nowhere"], "minisign -G");
    refused(folder, &["99.0.0", "--quickly"], "--quickly is unknown");
    std::fs::write(folder.join("new"), "").unwrap();
    refused(folder, &["99.0.0", "--dry-run"], "has changes");
    std::fs::remove_file(folder.join("new")).unwrap();
    git(folder, &["tag", "v99.0.0"]);
    refused(folder, &["99.0.0", "--dry-run"], "there is a tag");
    std::fs::write(folder.join("CHANGELOG.md"), "# Changelog\n\n## Unreleased\n\n## 0.0.1\n- Old.\n").unwrap();
    git(folder, &["commit", "--all", "--quiet", "--message", "Nothing"]);
    refused(folder, &["98.0.0", "--dry-run"], "nothing under Unreleased");
}

/// With a program that is built already and a signing tool that stands in for minisign's own.
#[test]
fn a_release_is_a_commit_a_tag_and_files_that_agree() {
    let clone = clone();
    let (folder, tools) = (clone.path(), tempfile::tempdir().unwrap());
    let executable = |name: &str, text: &str| {
        let path = tools.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let program = executable("program", "#!/bin/sh\necho openvalidators 99.0.0\n");
    let sign =
        executable("sign", "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = -x ] && echo signed > \"$2\"; shift; done\n");
    let key = executable("key", "a key");
    let ended = Command::new(folder.join("scripts/release"))
        .current_dir(folder)
        .args(["99.0.0", "--key", &key, "--program", &program])
        .envs([("MINISIGN", sign.as_str()), ("GIT_AUTHOR_NAME", "T"), ("GIT_AUTHOR_EMAIL", "t@t")])
        .envs([("GIT_COMMITTER_NAME", "T"), ("GIT_COMMITTER_EMAIL", "t@t")])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(git(folder, &["describe", "--tags", "--exact-match"]).trim(), "v99.0.0");
    assert_eq!(git(folder, &["status", "--porcelain"]), "", "dist is ignored");
    let manifest = std::fs::read(folder.join("dist/99.0.0/latest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(
        (&manifest["version"], &manifest["ledger_schema"]),
        (&"99.0.0".into(), &openvalidators_ledger::SCHEMA_VERSION.into())
    );
    let made = manifest["programs"].as_object().unwrap().values().next().unwrap();
    let file = folder.join("dist/99.0.0").join(made["file"].as_str().unwrap());
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&program).unwrap());
    let sums =
        Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(folder.join("dist/99.0.0")).status();
    assert!(sums.unwrap().success());
    assert!(folder.join("dist/99.0.0/latest.json.minisig").exists());
    let changelog = std::fs::read_to_string(folder.join("CHANGELOG.md")).unwrap();
    assert!(changelog.contains("## Unreleased\n\n## 99.0.0 - 20"), "{changelog}");
}
