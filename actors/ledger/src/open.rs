//! From a directory to an open ledger: the lock, the checks that refuse a wrong file untouched, and the making of a new one.

use std::{
    fs::{self, File, TryLockError},
    io::{ErrorKind, Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use openvalidators_messages::{Hotkey, Netuid};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::additions;

/// The database inside the state directory.
pub const LEDGER_FILE: &str = "ledger.sqlite3";

/// The file whose lock keeps other processes out; it holds the pid of the process inside.
pub const LOCK_FILE: &str = "ledger.lock";

/// What `PRAGMA user_version` says of a ledger this code reads and writes.
pub const SCHEMA_VERSION: u32 = 1;

/// What `PRAGMA application_id` says of every ledger: "ovld" in ASCII.
const APPLICATION_ID: u32 = 0x6f76_6c64;

const SCHEMA: &str = include_str!("schema.sql");

/// The first bytes of every SQLite 3 file (<https://www.sqlite.org/fileformat2.html>, section 1.3).
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

/// How long a commit waits for another program that has the file open (an analyst's shell) before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A write-ahead log is cut back to this many bytes after a checkpoint.
const WAL_KEPT_BYTES: i64 = 64 << 20;

/// Whose ledger it is. One state directory serves one validator on one subnet of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name of the chain, e.g. `finney`, `test` or `local`.
    pub network: String,
    /// The subnet.
    pub netuid: Netuid,
    /// The validator's hotkey.
    pub hotkey: Hotkey,
}

/// Why a ledger was not opened. Nothing in the database was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works in this directory.
    #[error(
        "state directory `{}` is in use by {}: stop that process, or give this one a directory of its own",
        directory.display(), holder(*pid)
    )]
    InUse {
        /// The state directory.
        directory: PathBuf,
        /// The process that holds it, when its lock file names one.
        pid: Option<u32>,
    },
    /// The file was written by another release.
    #[error(
        "ledger `{}` has schema version {found}, this program wants {wanted}: \
         start the release that wrote it, or name another state directory", file.display()
    )]
    OtherVersion {
        /// The database.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// [`SCHEMA_VERSION`].
        wanted: u32,
    },
    /// The file belongs to another validator.
    #[error(
        "ledger `{}` was made for {what} {found}, this program runs with {what} {wanted}: \
         correct the configuration, or name another state directory", file.display()
    )]
    OtherIdentity {
        /// The database.
        file: PathBuf,
        /// `network`, `netuid` or `hotkey`.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The file is no ledger.
    #[error("`{}` is no ledger ({found}): move it away, or name another state directory", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What it looks like instead.
        found: String,
    },
    /// The file is a ledger, but broken.
    #[error(
        "ledger `{}` is damaged ({found}): restore the whole directory from a backup, or save what can be read with \
         `sqlite3 {} .recover` and start in another state directory", file.display(), file.display()
    )]
    Damaged {
        /// The database.
        file: PathBuf,
        /// What SQLite said.
        found: String,
    },
    /// A write-ahead log lies there without its database; a new database would swallow it.
    #[error(
        "`{}` lies there without the ledger it belongs to: put `{}` back beside it, or move it away", log.display(), file.display()
    )]
    OrphanedLog {
        /// The database that is missing.
        file: PathBuf,
        /// The log that was found.
        log: PathBuf,
    },
    /// No ledger where one should be read.
    #[error("there is no ledger at `{}`: name the state directory of a validator that has run", file.display())]
    Missing {
        /// The database.
        file: PathBuf,
    },
    /// The operating system refused.
    #[error("could not {attempted} `{}`: {reason}", path.display())]
    Io {
        /// The operation.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system or SQLite said.
        reason: String,
    },
}

/// Holds the state directory for as long as it lives; the kernel lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    file: File,
}

/// Opens the ledger of a directory for writing, making directory and file when they are not there.
///
/// `check_up_to_bytes`: a file of at most this size is checked for damage (`PRAGMA quick_check`) first.
pub(crate) fn open_for_writing(
    directory: &Path,
    identity: &Identity,
    check_up_to_bytes: u64,
) -> Result<(Connection, DirectoryLock), OpenError> {
    fs::create_dir_all(directory).map_err(io("make the state directory", directory))?;
    let mut lock = DirectoryLock::acquire(directory)?;
    let file = directory.join(LEDGER_FILE);
    if file.try_exists().map_err(io("look for", &file))? {
        check_header(&file)?;
        // Read from the file alone, before SQLite may touch anything. A crash in the middle of a checkpoint can leave the
        // file unreadable without its log; then the check after opening has to do.
        if let Ok(found) = read_identity_untouched(&file) {
            compare(&file, &found, identity)?;
        }
    } else {
        create(&file, identity)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&file, flags).map_err(sqlite("open", &file))?;
    compare(&file, &read_identity(&connection).map_err(sqlite("read", &file))?, identity)?;
    set_durable(&connection, &file)?;
    let bytes = fs::metadata(&file).map_err(io("measure", &file))?.len();
    if bytes <= check_up_to_bytes {
        check_for_damage(&connection, &file)?;
    } else {
        tracing::info!(bytes, check_up_to_bytes, "the ledger is too large to be checked at every start");
    }
    additions::add(&mut connection).map_err(sqlite("complete", &file))?;
    lock.sign().map_err(io("sign", &directory.join(LOCK_FILE)))?;
    Ok((connection, lock))
}

/// Opens the ledger of a directory for reading, beside the process that may be writing it.
pub(crate) fn open_for_reading(directory: &Path) -> Result<(Connection, Identity), OpenError> {
    let file = directory.join(LEDGER_FILE);
    if !file.try_exists().map_err(io("look for", &file))? {
        return Err(OpenError::Missing { file });
    }
    check_header(&file)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&file, flags).map_err(sqlite("open", &file))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite("open", &file))?;
    let identity = read_identity(&connection).map_err(sqlite("read", &file))?;
    Ok((connection, identity))
}

// === The file ===

/// A new ledger appears under its name only when it is whole: a crash on the way leaves at most a `.new` file.
fn create(file: &Path, identity: &Identity) -> Result<(), OpenError> {
    let log = sibling(file, "-wal");
    if log.try_exists().map_err(io("look for", &log))? {
        return Err(OpenError::OrphanedLog { file: file.to_owned(), log });
    }
    let new = sibling(file, ".new");
    for leftover in [new.clone(), sibling(&new, "-journal")] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("remove", &leftover)(error)),
            _ => {}
        }
    }
    write_schema(&new, identity).map_err(sqlite("make", &new))?;
    File::open(&new).and_then(|made| made.sync_all()).map_err(io("sync", &new))?;
    fs::rename(&new, file).map_err(io("rename", &new))?;
    let directory = file.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|made| made.sync_all()).map_err(io("sync", directory))
}

fn write_schema(new: &Path, identity: &Identity) -> rusqlite::Result<()> {
    let mut connection = Connection::open(new)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Before the first table: so the file can shrink while it is in use.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    for (key, value) in identity.rows() {
        transaction.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", (key, value))?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

/// Looks at the bytes of the file: whether it is a ledger, and of which version.
pub(crate) fn check_header(file: &Path) -> Result<(), OpenError> {
    let foreign = |found: String| OpenError::Foreign { file: file.to_owned(), found };
    let mut header = [0; HEADER_BYTES];
    match File::open(file).and_then(|mut opened| opened.read_exact(&mut header)) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(foreign(format!("shorter than the {HEADER_BYTES} bytes of a database header")));
        }
        other => other.map_err(io("read", file))?,
    }
    if !header.starts_with(SQLITE_MAGIC) {
        return Err(foreign("not an SQLite database".to_owned()));
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    match (number(APPLICATION_ID_AT), number(USER_VERSION_AT)) {
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
        (APPLICATION_ID, found) => {
            Err(OpenError::OtherVersion { file: file.to_owned(), found, wanted: SCHEMA_VERSION })
        }
        (other, _) => Err(foreign(format!("an SQLite database of another program, application id {other:#010x}"))),
    }
}

fn set_durable(connection: &Connection, file: &Path) -> Result<(), OpenError> {
    let set = || -> rusqlite::Result<String> {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        // In this mode a commit returns only when its bytes were synced.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.query_row(&format!("PRAGMA journal_size_limit = {WAL_KEPT_BYTES}"), [], |_| Ok(()))?;
        Ok(mode)
    };
    match set().map_err(sqlite("open", file))?.as_str() {
        "wal" => Ok(()),
        mode => Err(OpenError::Io {
            attempted: "keep a write-ahead log beside",
            path: file.to_owned(),
            reason: format!("SQLite stays in mode `{mode}`; use a local file system"),
        }),
    }
}

pub(crate) fn check_for_damage(connection: &Connection, file: &Path) -> Result<(), OpenError> {
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite("check", file))?;
    if found == "ok" { Ok(()) } else { Err(OpenError::Damaged { file: file.to_owned(), found }) }
}

// === Identity ===

impl Identity {
    fn rows(&self) -> [(&'static str, String); 3] {
        [("network", self.network.clone()), ("netuid", self.netuid.to_string()), ("hotkey", self.hotkey.to_string())]
    }
}

fn compare(file: &Path, found: &Identity, wanted: &Identity) -> Result<(), OpenError> {
    for ((what, found), (_, wanted)) in found.rows().into_iter().zip(wanted.rows()) {
        if found != wanted {
            return Err(OpenError::OtherIdentity { file: file.to_owned(), what, found, wanted });
        }
    }
    Ok(())
}

pub(crate) fn read_identity(connection: &Connection) -> rusqlite::Result<Identity> {
    let value = |key: &str| -> rusqlite::Result<String> {
        connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
    };
    let unreadable =
        |reason: String| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, reason.into());
    Ok(Identity {
        network: value("network")?,
        netuid: Netuid(value("netuid")?.parse().map_err(|error| unreadable(format!("netuid: {error}")))?),
        hotkey: value("hotkey")?.parse().map_err(|error| unreadable(format!("hotkey: {error}")))?,
    })
}

/// Reads the identity without locks, logs or recovery, so that a refused file stays byte for byte as it was. Sound because
/// `meta` is written once, before the file has its name, and no later checkpoint touches its pages.
fn read_identity_untouched(file: &Path) -> rusqlite::Result<Identity> {
    let path = file.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(file.to_owned()))?;
    let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    read_identity(&Connection::open_with_flags(format!("file:{path}?immutable=1"), flags)?)
}

// === impl DirectoryLock ===

impl DirectoryLock {
    pub(crate) fn acquire(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(LOCK_FILE);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open the lock", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                Err(OpenError::InUse { directory: directory.to_owned(), pid })
            }
            Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
        }
    }

    /// Tells whoever is refused which process is in.
    fn sign(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

// === Errors ===

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("the process with pid {pid}"))
}

pub(crate) fn io<E: std::fmt::Display>(attempted: &'static str, path: &Path) -> impl FnOnce(E) -> OpenError {
    move |error| OpenError::Io { attempted, path: path.to_owned(), reason: error.to_string() }
}

pub(crate) fn sqlite(attempted: &'static str, file: &Path) -> impl FnOnce(rusqlite::Error) -> OpenError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Damaged { file: file.to_owned(), found: error.to_string() }
        }
        _ => io(attempted, file)(error),
    }
}

pub(crate) fn sibling(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
