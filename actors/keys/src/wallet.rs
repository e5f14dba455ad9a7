//! The wallet on disk: `WALLETS/NAME/hotkeys/HOTKEY` and what lies around it. Only the hotkey is ever opened; a coldkey is
//! neither needed nor read. Nothing is created or changed: that is `btcli`'s.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use openvalidators_messages::Hotkey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    HotkeySigner,
    keyfile::{self, Format, KeyfileError, Secret},
    ss58,
};

mod check;
mod password;

pub use check::{Finding, Report, State, check};
pub use password::{MAX_PASSWORD_BYTES, OWN_VARIABLE, PasswordError, Passwords, sdk_variable};

/// The SDK's name of a wallet, and of a hotkey, when none is given.
pub const DEFAULT_NAME: &str = "default";

/// The SDK's folder of wallets.
const DEFAULT_PATH: &str = "~/.bittensor/wallets";

/// How often a person is asked for a password.
const MAX_PROMPTS: usize = 3;

/// Names that an error lists.
const MAX_NAMES: usize = 8;

/// Which hotkey is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WalletConfig {
    /// The wallet: a folder in [`Self::path`].
    pub name: Option<String>,
    /// The hotkey: a file in the wallet's folder `hotkeys`.
    pub hotkey: Option<String>,
    /// The folder of wallets.
    pub path: PathBuf,
    /// A file with the hotkey's password, where it has one.
    pub password_file: Option<PathBuf>,
    /// Whether a person at the terminal may be asked for the password.
    pub ask_password: bool,
}

/// A wallet's place on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    path: PathBuf,
    name: String,
    hotkey: String,
}

/// An opened hotkey.
#[derive(Debug)]
pub struct Opened {
    /// Signs with it.
    pub signer: HotkeySigner,
    /// How it is stored.
    pub format: Format,
    /// What is not as it should be, though it opened.
    pub warnings: Vec<Warning>,
}

/// Something an operator should mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The file's mode lets others at it.
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The public file beside the hotkey is another key's.
    OtherPublicFile {
        /// The public file.
        path: PathBuf,
        /// What it says.
        found: Hotkey,
    },
}

/// A wallet that gives no hotkey.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// A setting that names no file.
    #[error("{key} is `{found}`: {remedy}")]
    Setting {
        /// Which.
        key: &'static str,
        /// As set.
        found: String,
        /// What it may be.
        remedy: &'static str,
    },
    /// No such wallet or hotkey.
    #[error(
        "{what}.\nNothing is created here. Make it with the SDK's own tool, or copy the hotkey's file:\n{commands}"
    )]
    Missing {
        /// What there is instead.
        what: String,
        /// The commands that make it, one a line.
        commands: String,
    },
    /// The system refused.
    #[error("{path} could not be read: {reason}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said, and the remedy.
        reason: String,
    },
    /// Not a file of the size of a key.
    #[error("{path} is {found}, not a keyfile: check wallet.name, wallet.hotkey and wallet.path")]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// The file is there and gives no hotkey.
    #[error("the hotkey {path}: {reason}")]
    Keyfile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: KeyfileError,
    },
    /// The password that was given.
    #[error(
        "the password from {place} does not open the hotkey {path} (or the file was changed since it was written): \
         correct it, or restore the hotkey from its phrase with `btcli wallet regen-hotkey`"
    )]
    WrongPassword {
        /// Which file.
        path: PathBuf,
        /// Where the password came from.
        place: String,
    },
    /// No password was given.
    #[error("the hotkey {path} takes a password: {reason}")]
    Password {
        /// Which file.
        path: PathBuf,
        /// Why there is none, and how to give one.
        reason: PasswordError,
    },
}

// === impl WalletConfig ===

impl Default for WalletConfig {
    fn default() -> Self {
        Self { name: None, hotkey: None, path: DEFAULT_PATH.into(), password_file: None, ask_password: true }
    }
}

impl WalletConfig {
    /// Whether the operator asks for a wallet; a local network does without one.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.name.is_some() || self.hotkey.is_some()
    }

    /// # Errors
    /// When a name is none that a folder or a file can have.
    pub fn check(&self) -> Result<(), WalletError> {
        for (key, name) in [("wallet.name", &self.name), ("wallet.hotkey", &self.hotkey)] {
            if let Some(name) = name
                && (name.is_empty() || matches!(name.as_str(), "." | "..") || name.contains(['/', '\\', '\0']))
            {
                let remedy = "give a name without slashes; wallet.path is for the folder";
                return Err(WalletError::Setting { key, found: name.clone(), remedy });
            }
        }
        Ok(())
    }
}

// === impl Wallet ===

impl Wallet {
    /// Where the settings put it. `home` is what a leading `~` stands for.
    ///
    /// # Errors
    /// When the settings name no place.
    pub fn locate(config: &WalletConfig, home: Option<&Path>) -> Result<Self, WalletError> {
        config.check()?;
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
        Ok(Self { path: expanded(&config.path, home)?, name: name(&config.name), hotkey: name(&config.hotkey) })
    }

    /// The hotkey's file, the only one that is opened.
    #[must_use]
    pub fn hotkey_file(&self) -> PathBuf {
        self.folder().join("hotkeys").join(&self.hotkey)
    }

    /// Opens the hotkey. Asks for a password where the file takes one, a person up to three times.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub fn open(&self, passwords: &mut Passwords) -> Result<Opened, WalletError> {
        let path = self.hotkey_file();
        let failed = |reason| WalletError::Keyfile { path: path.clone(), reason };
        let file = self.read_hotkey()?;
        let format = Format::of(&file).map_err(failed)?;
        let plain = if format.is_encrypted() { self.unlock(format, file, passwords)? } else { file };
        let signer = keyfile::signer(&plain).map_err(failed)?;
        let mut warnings = Vec::from_iter(exposure(&path));
        warnings.extend(passwords.exposure());
        warnings.extend(self.other_public_file(&signer.hotkey()));
        Ok(Opened { signer, format, warnings })
    }

    fn unlock(&self, format: Format, file: Secret, passwords: &mut Passwords) -> Result<Secret, WalletError> {
        let path = self.hotkey_file();
        let mut attempts = 1;
        loop {
            let (password, from) =
                passwords.take(&path).map_err(|reason| WalletError::Password { path: path.clone(), reason })?;
            match format.unlock(file.clone(), password.as_bytes()) {
                Ok(plain) => return Ok(plain),
                Err(KeyfileError::WrongPassword) if from.is_a_person() && attempts < MAX_PROMPTS => attempts += 1,
                Err(KeyfileError::WrongPassword) => {
                    return Err(WalletError::WrongPassword { path, place: from.to_string() });
                }
                Err(reason) => return Err(WalletError::Keyfile { path, reason }),
            }
        }
    }

    fn folder(&self) -> PathBuf {
        self.path.join(&self.name)
    }

    fn hotkey_public_file(&self) -> PathBuf {
        self.folder().join("hotkeys").join(format!("{}pub.txt", self.hotkey))
    }

    fn read_hotkey(&self) -> Result<Secret, WalletError> {
        let path = self.hotkey_file();
        read(&path).map_err(|error| match error {
            ReadError::Io(error) if error.kind() == io::ErrorKind::NotFound => self.missing(),
            error => error.at(&path),
        })
    }

    /// Tells which part is not there, what is there in its place, and how to make it.
    fn missing(&self) -> WalletError {
        let Self { path, name, hotkey } = self;
        let folder = self.folder();
        let what = if !path.is_dir() {
            format!("there is no folder of wallets at {}", path.display())
        } else if !folder.is_dir() {
            format!("{} holds no wallet `{name}`{}", path.display(), others(path, |name| !name.starts_with('.')))
        } else {
            let hotkeys = folder.join("hotkeys");
            let others = others(&hotkeys, |name| !name.ends_with("pub.txt") && !name.starts_with('.'));
            format!("the wallet {} holds no hotkey `{hotkey}`{others}", folder.display())
        };
        let place = if path.ends_with(".bittensor/wallets") {
            String::new()
        } else {
            format!(" --wallet-path {}", shell_word(&path.display().to_string()))
        };
        let (name, hotkey) = (shell_word(name), shell_word(hotkey));
        let mut commands = String::new();
        if !folder.is_dir() {
            commands += &format!("  btcli wallet new-coldkey --wallet {name}{place}\n");
        }
        for verb in ["new-hotkey", "regen-hotkey"] {
            commands += &format!("  btcli wallet {verb} --wallet {name} --wallet-hotkey {hotkey}{place}\n");
        }
        commands += "(btcli before version 11 says --wallet-name for --wallet)";
        WalletError::Missing { what, commands }
    }

    fn other_public_file(&self, ours: &Hotkey) -> Option<Warning> {
        let path = self.hotkey_public_file();
        let found = keyfile::address_in(&read(&path).ok()?).ok()?;
        (found != *ours).then_some(Warning::OtherPublicFile { path, found })
    }
}

/// What kept a small file from being read.
enum ReadError {
    Io(io::Error),
    NotAFile(String),
}

/// Reads a file of at most [`keyfile::MAX_BYTES`], into memory that is overwritten afterwards.
fn read(path: &Path) -> Result<Secret, ReadError> {
    // Looked at before it is opened: opening a named pipe waits for a writer.
    let about = std::fs::metadata(path).map_err(ReadError::Io)?;
    if about.is_dir() {
        return Err(ReadError::NotAFile("a folder".to_owned()));
    }
    if !about.is_file() {
        return Err(ReadError::NotAFile("a device or a pipe".to_owned()));
    }
    let limit = keyfile::MAX_BYTES;
    // Room for all of it from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    let file = File::open(path).map_err(ReadError::Io)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() > limit {
        return Err(ReadError::NotAFile(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// A folder's names, for those who mistyped one.
fn others(folder: &Path, is_one: impl Fn(&str) -> bool) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_one(name));
    names.sort();
    let more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    match (names.is_empty(), more) {
        (true, _) => String::new(),
        (_, 0) => format!(" (there are: {})", names.join(", ")),
        (_, more) => format!(" (there are: {} and {more} more)", names.join(", ")),
    }
}

/// As a shell takes it back.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./~".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn expanded(path: &Path, home: Option<&Path>) -> Result<PathBuf, WalletError> {
    let Ok(rest) = path.strip_prefix("~") else { return Ok(path.to_owned()) };
    let remedy = "there is no home directory that ~ could stand for (HOME); write the path in full";
    let none = || WalletError::Setting { key: "wallet.path", found: path.display().to_string(), remedy };
    Ok(home.ok_or_else(none)?.join(rest))
}

/// A warning when others than its owner may read or change the file.
fn exposure(path: &Path) -> Option<Warning> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then(|| Warning::Exposed { path: path.to_owned(), mode })
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

// === impl ReadError ===

impl ReadError {
    fn at(self, path: &Path) -> WalletError {
        let path = path.to_owned();
        match self {
            Self::NotAFile(found) => WalletError::NotAFile { path, found },
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let user = "run as its owner, or give it to the user that runs this (chown)";
                WalletError::Unreadable { path, reason: format!("permission denied; {user}") }
            }
            Self::Io(error) => WalletError::Unreadable { path, reason: error.to_string() },
        }
    }
}

// === impl Warning ===

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposed { path, mode } => {
                let who = if mode & 0o007 == 0 { "its group" } else { "every user of this machine" };
                let path = path.display();
                write!(f, "{path} is open to {who} (mode {mode:03o}): chmod 600 {}", shell_word(&path.to_string()))
            }
            Self::OtherPublicFile { path, found } => {
                write!(f, "{} names another key, {}: remove it or correct it", path.display(), ss58::encode(found))
            }
        }
    }
}

#[cfg(test)]
mod peer;
#[cfg(test)]
mod tests;
