//! The journal's file: lines appended and flushed, many at once.
//!
//! A thread of its own writes: while it waits for the disk the next lines gather, and one flush serves all of them. So
//! twenty attachments at once cost about what one does. A line that was cut off by a crash was never answered for, and
//! is left out. Now and then, and at each start, the file is written anew with what still holds.

use super::{Attachment, JournalError, Origin};
use crate::protocol::AttachmentKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

const NAME: &str = "attachments.log";
/// Below this size in bytes a file is not written anew.
const SMALL: u64 = 256 * 1024;
/// A file is written anew when it is so many times as large as what holds.
const SLACK: u64 = 4;

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// The node made it.
    Made(Attachment),
    /// The node found it.
    Found(Attachment),
    /// It is ending.
    Leaving(Attachment),
    /// It is gone.
    Gone(AttachmentKey),
}

/// The file, from any thread.
#[derive(Debug)]
pub(super) struct Log {
    orders: Mutex<Sender<Order>>,
    path: PathBuf,
}

/// What a file said when it was opened.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) entries: Vec<(Attachment, Origin)>,
    pub(super) is_new: bool,
}

/// Whether something is on the disk.
type Written = Result<(), JournalError>;

struct Order {
    key: AttachmentKey,
    /// The line with its end.
    line: Vec<u8>,
    /// Whether the line holds until another of its key comes.
    stays: bool,
    done: oneshot::Sender<Written>,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> JournalError {
    let path = path.to_path_buf();
    move |source| JournalError {
        operation,
        path,
        source,
    }
}

impl Log {
    pub(super) fn open(folder: &Path) -> Result<Opened, JournalError> {
        let mut maker = DirBuilder::new();
        maker.recursive(true).mode(0o700);
        maker.create(folder).map_err(failed("create folder", folder))?;
        let path = folder.join(NAME);
        let mut entries = Entries::default();
        let text = match std::fs::read(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if let Some(text) = &text
            && !entries.read(text)
        {
            let aside = folder.join(format!("{NAME}.damaged"));
            tracing::warn!(path = %path.display(), kept = %aside.display(), "a part of the journal cannot be read");
            std::fs::write(&aside, text).map_err(failed("write", &aside))?;
        }
        let singles = entries.read_single_files(folder)?;
        let writer = Writer::begin(&path, &entries.0)?;
        for single in &singles {
            std::fs::remove_file(single).map_err(failed("remove", single))?;
        }
        let (orders, receiver) = channel();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(failed("start the thread that writes", &path))?;
        Ok(Opened {
            log: Log {
                orders: Mutex::new(orders),
                path,
            },
            is_new: text.is_none() && singles.is_empty(),
            entries: entries.0,
        })
    }

    /// Hands an entry over to be written; who awaits what is returned hears that it is on the disk.
    pub(super) fn put(
        &self,
        attachment: &Attachment,
        origin: Origin,
    ) -> impl Future<Output = Written> + use<> {
        self.order(attachment.key.clone(), line_of(attachment, origin), true)
    }

    /// The same for the word that an attachment is gone.
    pub(super) fn remove(&self, key: &AttachmentKey) -> impl Future<Output = Written> + use<> {
        self.order(key.clone(), encode(&Line::Gone(key.clone())), false)
    }

    fn order(
        &self,
        key: AttachmentKey,
        line: std::io::Result<Vec<u8>>,
        stays: bool,
    ) -> impl Future<Output = Written> + use<> {
        let (done, answer) = oneshot::channel();
        let sent = line.map(|line| {
            let order = Order {
                key,
                line,
                stays,
                done,
            };
            let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.send(order)
        });
        let path = self.path.clone();
        async move {
            let ended = || failed("write", &path)(std::io::Error::other("its thread has ended"));
            sent.map_err(failed("encode an entry of", &path))?
                .map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        }
    }
}

fn line_of(attachment: &Attachment, origin: Origin) -> std::io::Result<Vec<u8>> {
    encode(&match origin {
        Origin::Made => Line::Made(attachment.clone()),
        Origin::Found => Line::Found(attachment.clone()),
        Origin::Leaving => Line::Leaving(attachment.clone()),
    })
}

fn encode(line: &Line) -> std::io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text)
}

/// What holds, in the order in which it came to be.
#[derive(Default)]
struct Entries(Vec<(Attachment, Origin)>);

impl Entries {
    /// Takes in the lines of a file; says whether all of them could be read. What stands behind the last end of a line
    /// was cut off while it was written.
    fn read(&mut self, text: &[u8]) -> bool {
        let mut is_whole = true;
        let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        lines.pop();
        for line in lines {
            match serde_json::from_slice::<Line>(line) {
                Ok(Line::Made(attachment)) => self.put(attachment, Origin::Made),
                Ok(Line::Found(attachment)) => self.put(attachment, Origin::Found),
                Ok(Line::Leaving(attachment)) => self.put(attachment, Origin::Leaving),
                Ok(Line::Gone(key)) => self.0.retain(|(known, _)| known.key != key),
                Err(_) => is_whole = false,
            }
        }
        is_whole
    }

    fn put(&mut self, attachment: Attachment, origin: Origin) {
        match self.0.iter_mut().find(|(known, _)| known.key == attachment.key) {
            Some(known) => *known = (attachment, origin),
            None => self.0.push((attachment, origin)),
        }
    }

    /// Takes in the files of the form that the journal had before, one an attachment, and says which they are. One that
    /// cannot be read is left alone.
    fn read_single_files(&mut self, folder: &Path) -> Result<Vec<PathBuf>, JournalError> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed("read folder", folder))? {
            let path = entry.map_err(failed("read folder", folder))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let text = std::fs::read(&path).map_err(failed("read", &path))?;
            match serde_json::from_slice::<Attachment>(&text) {
                Ok(attachment) => {
                    self.put(attachment, Origin::Made);
                    files.push(path);
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a journal entry cannot be read")
                }
            }
        }
        Ok(files)
    }
}

/// The thread that writes.
struct Writer {
    path: PathBuf,
    file: File,
    /// How far the file is good, in bytes.
    length: u64,
    /// The lines that hold, by the order of their coming.
    lines: BTreeMap<u64, Vec<u8>>,
    numbers: BTreeMap<AttachmentKey, u64>,
    next: u64,
}

impl Writer {
    fn begin(path: &Path, entries: &[(Attachment, Origin)]) -> Result<Self, JournalError> {
        let (mut lines, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        for ((attachment, origin), number) in entries.iter().zip(0u64..) {
            let line = line_of(attachment, *origin).map_err(failed("encode an entry of", path))?;
            lines.insert(number, line);
            numbers.insert(attachment.key.clone(), number);
        }
        let (file, length) = write_anew(path, &lines)?;
        Ok(Writer {
            path: path.to_path_buf(),
            file,
            length,
            next: lines.len() as u64,
            lines,
            numbers,
        })
    }

    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let batch: Vec<Order> = std::iter::once(first).chain(orders.try_iter()).collect();
            let written = self.append(&batch);
            for order in batch {
                let answer = match &written {
                    Ok(()) => {
                        self.note(order.key, order.line, order.stays);
                        Ok(())
                    }
                    Err((operation, error)) => {
                        let copy = error.raw_os_error().map_or_else(
                            || std::io::Error::new(error.kind(), error.to_string()),
                            std::io::Error::from_raw_os_error,
                        );
                        Err(failed(operation, &self.path)(copy))
                    }
                };
                // Who does not wait any more finds it in the journal.
                let _ = order.done.send(answer);
            }
            self.shrink();
        }
    }

    fn append(&mut self, batch: &[Order]) -> Result<(), (&'static str, std::io::Error)> {
        // What a failed attempt left behind the good part must not come before the next lines.
        let is_behind = self.file.metadata().map(|found| found.len() != self.length);
        if is_behind.map_err(|e| ("look at", e))? {
            self.file.set_len(self.length).map_err(|e| ("cut", e))?;
        }
        let text: Vec<u8> = batch
            .iter()
            .flat_map(|order| order.line.iter().copied())
            .collect();
        self.file.write_all(&text).map_err(|e| ("write", e))?;
        self.file.sync_data().map_err(|e| ("flush", e))?;
        self.length += text.len() as u64;
        Ok(())
    }

    fn note(&mut self, key: AttachmentKey, line: Vec<u8>, stays: bool) {
        if !stays {
            if let Some(number) = self.numbers.remove(&key) {
                self.lines.remove(&number);
            }
            return;
        }
        let next = self.next;
        let number = *self.numbers.entry(key).or_insert(next);
        self.next = self.next.max(number + 1);
        self.lines.insert(number, line);
    }

    fn shrink(&mut self) {
        let holds: u64 = self.lines.values().map(|line| line.len() as u64).sum();
        if self.length < SMALL || self.length < holds.saturating_mul(SLACK) {
            return;
        }
        match write_anew(&self.path, &self.lines) {
            Ok((file, length)) => (self.file, self.length) = (file, length),
            // The long file holds as well.
            Err(error) => tracing::warn!(%error, source = %error.source, "the journal cannot be shortened"),
        }
    }
}

/// Writes a file that holds these lines, puts it in the place of the old one and opens it for appending.
fn write_anew(path: &Path, lines: &BTreeMap<u64, Vec<u8>>) -> Result<(File, u64), JournalError> {
    let temporary = path.with_extension("tmp");
    let text: Vec<u8> = lines.values().flatten().copied().collect();
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &temporary)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    file.write_all(&text).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("flush", &temporary))?;
    std::fs::rename(&temporary, path).map_err(failed("rename", &temporary))?;
    if let Some(folder) = path.parent() {
        File::open(folder)
            .and_then(|opened| opened.sync_all())
            .map_err(failed("flush folder", folder))?;
    }
    Ok((file, text.len() as u64))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
#[path = "log_tests.rs"]
mod tests;
