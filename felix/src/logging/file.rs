//! The log file: appended to, and opened anew when it was renamed.

use super::LoggingError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tracing_subscriber::fmt::MakeWriter;

/// An open log file. Cheap to clone; every clone is the same file.
#[derive(Clone, Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Arc<RwLock<Arc<File>>>,
}

impl LogFile {
    /// Opens a file, made with its folders if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn open(path: &Path) -> Result<Self, LoggingError> {
        let file = open(path)?;
        Ok(LogFile {
            path: path.to_owned(),
            file: Arc::new(RwLock::new(Arc::new(file))),
        })
    }

    /// Opens the path anew; lines go on into the old file if that fails.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn reopen(&self) -> Result<(), LoggingError> {
        let file = open(&self.path)?;
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, LoggingError> {
    let refused = |source| LoggingError::Open {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(refused)?;
    }
    // Addresses and names of workloads are in it: not for everybody to read.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(refused)
}

/// One line's way into the file that is open now.
#[derive(Debug)]
pub struct LogFileWriter(Arc<File>);

impl io::Write for LogFileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

impl MakeWriter<'_> for LogFile {
    type Writer = LogFileWriter;

    fn make_writer(&self) -> LogFileWriter {
        LogFileWriter(Arc::clone(
            &self.file.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}
