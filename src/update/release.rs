//! What a server offers, and when it is refused.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use minisign_verify::{PublicKey, Signature};
use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::{config::Config, web};

/// The version of this program.
pub const OURS: &str = env!("CARGO_PKG_VERSION");
/// The kind of machine it is made for, as releases name it.
const TARGET: &str = if cfg!(target_arch = "x86_64") { "linux-x86_64" } else { "linux-aarch64" };
/// The file that says what there is.
const MANIFEST: &str = "latest.json";
/// Largest manifest and signature that are read.
const MAX_TEXT_BYTES: u64 = 64 << 10;
/// Largest program that is taken.
const MAX_PROGRAM_BYTES: u64 = 1 << 30;
/// Longest wait for a text, and for a program.
const TEXT_PATIENCE: Duration = Duration::from_secs(30);
const PROGRAM_PATIENCE: Duration = Duration::from_secs(1_800);

/// `latest.json`, once its signature held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Which version.
    pub version: Version,
    /// The schema of its ledger: another one could not be opened by the program of before.
    pub ledger_schema: u32,
    /// Its programs, by the kind of machine (`linux-x86_64`).
    pub programs: BTreeMap<String, Program>,
}

/// A program of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its file, in the folder of the manifest.
    pub file: String,
    /// How large it is.
    pub bytes: u64,
    /// The digest of its bytes, in hexadecimal.
    pub sha256: String,
}

/// The version of this program, to compare.
///
/// # Errors
/// Never: cargo takes no other.
pub fn ours() -> anyhow::Result<Version> {
    Version::parse(OURS).context("reading our own version")
}

// === impl Offered ===

impl Offered {
    /// Reads what is offered and verifies its signature.
    ///
    /// # Errors
    /// When updates are off, the server does not answer, or the signature is not that of `update.public_key`.
    pub async fn fetch(config: &Config) -> anyhow::Result<Self> {
        let (url, key) = (&config.update.url, &config.update.public_key);
        ensure!(
            !url.is_empty() && !key.is_empty(),
            "updates are off: set update.url to where releases are, and update.public_key to the key that signs them"
        );
        let key = PublicKey::from_base64(key).context("update.public_key")?;
        let manifest = text(config, MANIFEST).await?;
        let signature = text(config, &format!("{MANIFEST}.minisig")).await?;
        let signature = std::str::from_utf8(&signature).ok().and_then(|text| Signature::decode(text).ok());
        let signature = signature.with_context(|| {
            format!("{url}/{MANIFEST}.minisig is no minisign signature: the release is half-written, or not one; nothing was changed")
        })?;
        key.verify(&manifest, &signature, false).map_err(|error| {
            anyhow::anyhow!(
                "the signature of {url}/{MANIFEST} does not hold with update.public_key ({error}): the release is damaged, or \
                 somebody else's. Nothing was changed"
            )
        })?;
        serde_json::from_slice(&manifest)
            .with_context(|| format!("{url}/{MANIFEST} is signed, and this version cannot read it: update by hand"))
    }

    /// Whether it is newer than this program.
    pub fn is_newer(&self) -> bool {
        ours().is_ok_and(|ours| self.version > ours)
    }

    /// Whether it may replace this program.
    ///
    /// # Errors
    /// When it is older, or a way back would be lost.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.is_newer(),
            "{} is older than this {OURS}: a downgrade is refused. `update rollback` takes the last update back; any other \
             version is put in place by hand",
            self.version
        );
        ensure!(
            self.ledger_schema == openvalidators_ledger::SCHEMA_VERSION,
            "{} keeps a ledger of schema {}, and this program one of {}: it could not be taken back. Make a copy (openvalidators \
             ledger backup --to FILE), then put it in place by hand",
            self.version,
            self.ledger_schema,
            openvalidators_ledger::SCHEMA_VERSION
        );
        Ok(())
    }

    /// Fetches the program for this machine into a file of `folder`, whole and of the digest that was signed, and tries it.
    ///
    /// # Errors
    /// When there is none for this machine, it is not what was signed, or it does not run here. Nothing is left behind then.
    pub async fn download(&self, config: &Config, folder: &Path) -> anyhow::Result<NamedTempFile> {
        let program = self.programs.get(TARGET).with_context(|| {
            let there: Vec<_> = self.programs.keys().map(String::as_str).collect();
            format!("{} has no program for {TARGET}, only for {}", self.version, there.join(", "))
        })?;
        let Program { file, bytes, sha256 } = program;
        ensure!(
            !file.contains('/') && *bytes <= MAX_PROGRAM_BYTES,
            "{file} of {bytes} bytes is no program of a release"
        );
        let url = format!("{}/{file}", config.update.url.trim_end_matches('/'));
        let asking = || format!("fetching {url}");
        let mut answer = web::client(&config.models, PROGRAM_PATIENCE)?.get(&url).send().await.with_context(asking)?;
        ensure!(answer.status().is_success(), "fetching {url}: the server answers {}", answer.status());
        let mut new = NamedTempFile::with_prefix_in(".openvalidators-", folder)
            .with_context(|| format!("writing beside the program, in {}: run it as who may", folder.display()))?;
        let (mut digest, mut found) = (Sha256::new(), 0_u64);
        while let Some(piece) = answer.chunk().await.with_context(asking)? {
            found += piece.len() as u64;
            ensure!(found <= *bytes, "{url} is longer than the {bytes} bytes that were signed: refused");
            digest.update(&piece);
            new.write_all(&piece).with_context(|| format!("writing {}", new.path().display()))?;
        }
        ensure!(
            found == *bytes,
            "{url} has {found} bytes where {bytes} were signed: the release is half-written. Try again later"
        );
        let digest = hex::encode(digest.finalize());
        ensure!(digest == *sha256, "{url} has the sha256 {digest} where {sha256} was signed: refused");
        new.as_file().set_permissions(std::fs::Permissions::from_mode(0o755))?;
        new.as_file().sync_all()?;
        let new = new.into_temp_path();
        self.try_it(&new)?;
        let file = File::open(&new)?;
        Ok(NamedTempFile::from_parts(file, new))
    }

    /// Whether it runs on this machine, and says the version that was signed.
    fn try_it(&self, program: &Path) -> anyhow::Result<()> {
        let said = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        let said = said.with_context(|| format!("{} does not run on this machine", self.version))?;
        let text = String::from_utf8_lossy(&said.stdout);
        if !said.status.success() || text.split_whitespace().nth(1) != Some(&self.version.to_string()) {
            let told = String::from_utf8_lossy(&said.stderr);
            bail!(
                "{} says `{}` when asked for its version: refused ({} {})",
                self.version,
                text.trim(),
                said.status,
                told.trim()
            );
        }
        Ok(())
    }
}

/// A small file of the release.
async fn text(config: &Config, file: &str) -> anyhow::Result<Vec<u8>> {
    let url = format!("{}/{file}", config.update.url.trim_end_matches('/'));
    let asking = || format!("fetching {url}");
    let mut answer = web::client(&config.models, TEXT_PATIENCE)?.get(&url).send().await.with_context(asking)?;
    ensure!(answer.status().is_success(), "fetching {url}: the server answers {}", answer.status());
    let mut text = Vec::new();
    while let Some(piece) = answer.chunk().await.with_context(asking)? {
        text.extend_from_slice(&piece);
        ensure!(text.len() as u64 <= MAX_TEXT_BYTES, "{url} is longer than {MAX_TEXT_BYTES} bytes: refused");
    }
    Ok(text)
}
