//! Where a hotkey's password comes from: a file, the environment, a person; the first that is there.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{ReadError, Warning, exposure, read};

/// The environment variable that holds a password as it is.
pub const OWN_VARIABLE: &str = "OPENVALIDATORS_WALLET_PASSWORD";

/// The longest password that is taken.
pub const MAX_PASSWORD_BYTES: usize = 1_024;

/// Reads an environment variable.
type Environment<'a> = Box<dyn Fn(&str) -> Option<OsString> + 'a>;

/// Asks a person, in these words.
type Prompt<'a> = Box<dyn FnMut(&str) -> io::Result<Zeroizing<String>> + 'a>;

/// The places a password may come from.
pub struct Passwords<'a> {
    file: Option<PathBuf>,
    environment: Environment<'a>,
    prompt: Option<Prompt<'a>>,
}

/// Where a password came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    Variable(String),
    Person,
}

/// Why there is no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// None of the places has one.
    #[error(
        "put it in a file that only you can read and set wallet.password_file to its path, or set the environment \
         variable {OWN_VARIABLE} (or the SDK's {sdk}); without a terminal nobody can be asked"
    )]
    None {
        /// The variable in which the SDK looks for it.
        sdk: String,
    },
    /// The file.
    #[error("wallet.password_file {path} {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The variable.
    #[error("the environment variable {name} {reason}")]
    Variable {
        /// Which.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The terminal.
    #[error("it could not be asked for: {0}")]
    Prompt(String),
}

/// The variable in which the SDK keeps the password of this file (`Keyfile.env_var_name` of bittensor-wallet).
#[must_use]
pub fn sdk_variable(keyfile: &Path) -> String {
    let name = keyfile.display().to_string().replace([std::path::MAIN_SEPARATOR, '.'], "_");
    format!("BT_PW_{}", name.to_uppercase())
}

// === impl Passwords ===

impl<'a> Passwords<'a> {
    /// `prompt` is `None` where nobody can be asked.
    pub fn new(
        file: Option<PathBuf>,
        environment: impl Fn(&str) -> Option<OsString> + 'a,
        prompt: Option<Prompt<'a>>,
    ) -> Self {
        Self { file, environment: Box::new(environment), prompt }
    }

    /// The password for this keyfile.
    pub(super) fn take(&mut self, keyfile: &Path) -> Result<(Zeroizing<String>, Source), PasswordError> {
        if let Some(file) = &self.file {
            return Ok((in_file(file)?, Source::File(file.clone())));
        }
        if let Some(value) = (self.environment)(OWN_VARIABLE) {
            let password = text(value).ok_or_else(|| PasswordError::variable(OWN_VARIABLE, "is not UTF-8"))?;
            return Ok((password, Source::Variable(OWN_VARIABLE.to_owned())));
        }
        let sdk = sdk_variable(keyfile);
        if let Some(value) = (self.environment)(&sdk) {
            return Ok((revealed(&sdk, value)?, Source::Variable(sdk)));
        }
        let Some(prompt) = &mut self.prompt else { return Err(PasswordError::None { sdk }) };
        let password = prompt(&format!("Password of the hotkey {}: ", keyfile.display()));
        Ok((password.map_err(|error| PasswordError::Prompt(error.to_string()))?, Source::Person))
    }

    /// A warning when others may read the file with the password.
    pub(super) fn exposure(&self) -> Option<Warning> {
        self.file.as_deref().and_then(exposure)
    }
}

/// One line; the end of the line does not count.
fn in_file(path: &Path) -> Result<Zeroizing<String>, PasswordError> {
    let wrong = |reason: String| PasswordError::File { path: path.to_owned(), reason };
    let bytes = read(path).map_err(|error| match error {
        ReadError::Io(error) => wrong(format!("could not be read: {error}")),
        ReadError::NotAFile(found) => wrong(format!("is {found}: name a file that holds the password alone")),
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8".to_owned()))?;
    let line = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if line.is_empty() || line.contains('\n') || line.len() > MAX_PASSWORD_BYTES {
        let lines = line.lines().count();
        let found = format!("holds {lines} lines and {} bytes", line.len());
        return Err(wrong(format!(
            "{found}: write the password alone, at most {MAX_PASSWORD_BYTES} bytes on one line"
        )));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// The SDK does not encrypt what it keeps in its variable: base64 of the password, mixed with the variable's own name.
fn revealed(name: &str, value: OsString) -> Result<Zeroizing<String>, PasswordError> {
    let strange = || {
        PasswordError::variable(
            name,
            "does not hold what the SDK keeps there: remove it, or set OPENVALIDATORS_WALLET_PASSWORD",
        )
    };
    let value = text(value).ok_or_else(strange)?;
    let mut bytes = Zeroizing::new(BASE64_STANDARD.decode(value.as_bytes()).map_err(|_| strange())?);
    for (byte, mask) in bytes.iter_mut().zip(name.bytes().cycle()) {
        *byte ^= mask;
    }
    let password = std::str::from_utf8(&bytes).map_err(|_| strange())?;
    Ok(Zeroizing::new(password.to_owned()))
}

fn text(value: OsString) -> Option<Zeroizing<String>> {
    value.into_string().ok().map(Zeroizing::new)
}

// === impl PasswordError ===

impl PasswordError {
    fn variable(name: &str, reason: &'static str) -> Self {
        Self::Variable { name: name.to_owned(), reason }
    }
}

// === impl Source ===

impl Source {
    /// Whether asking again may help.
    pub fn is_a_person(&self) -> bool {
        *self == Self::Person
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "wallet.password_file {}", path.display()),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::Person => f.write_str("the terminal"),
        }
    }
}
