//! Which lines are written where, and which are counted.

use super::*;
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing::subscriber::with_default;

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Screen {
    type Writer = Screen;
    fn make_writer(&self) -> Screen {
        self.clone()
    }
}

fn errors() -> IntCounter {
    IntCounter::new("errors", "errors").unwrap()
}

fn options(screen: Option<LogSeverity>) -> LoggingOptions {
    LoggingOptions {
        screen,
        file: None,
        path: PathBuf::new(),
        format: LogFormat::Text,
    }
}

fn say_everything() {
    tracing::trace!("said-trace");
    tracing::debug!("said-debug");
    tracing::info!("said-info");
    tracing::warn!("said-warning");
    tracing::error!("said-error");
    tracing::error!(target: FATAL_TARGET, "said-fatal");
}

fn said(text: &str) -> Vec<&str> {
    ["trace", "debug", "info", "warning", "error", "fatal"]
        .into_iter()
        .filter(|word| text.contains(&format!("said-{word}")))
        .collect()
}

// One test for all that depends on levels: events remember which levels are of interest to the whole process, and
// tests that change them at the same time would hide lines from each other.
#[test]
fn levels_files_and_counts() {
    let all = ["trace", "debug", "info", "warning", "error", "fatal"];
    let severities = [
        (Some(LogSeverity::Trace), &all[0..]),
        (Some(LogSeverity::Debug), &all[1..]),
        (Some(LogSeverity::Info), &all[2..]),
        (Some(LogSeverity::Warning), &all[3..]),
        (Some(LogSeverity::Error), &all[4..]),
        (Some(LogSeverity::Fatal), &all[5..]),
        (None, &all[6..]),
    ];
    for (severity, expected) in severities {
        let (screen, count) = (Screen::default(), errors());
        let (subscriber, _logging) = build(&options(severity), count.clone(), screen.clone(), false);
        with_default(subscriber, say_everything);
        assert_eq!(said(&screen.text()), expected, "{severity:?}");
        assert_eq!(
            count.get(),
            2,
            "errors count even where they are not written ({severity:?})"
        );
    }

    // The level changes while the log is in use, for the screen and the file each.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/felix.log");
    let both = |screen, file| LoggingOptions {
        screen,
        file,
        path: path.clone(),
        format: LogFormat::Text,
    };
    let screen = Screen::default();
    let (subscriber, logging) = build(
        &both(Some(LogSeverity::Error), Some(LogSeverity::Info)),
        errors(),
        screen.clone(),
        false,
    );
    assert!(logging.file_trouble().is_none());
    with_default(subscriber, || {
        say_everything();
        assert_eq!(said(&screen.text()), ["error", "fatal"]);
        assert_eq!(
            said(&std::fs::read_to_string(&path).unwrap()),
            ["info", "warning", "error", "fatal"]
        );
        screen.0.lock().unwrap().clear();
        logging.set_levels(&both(Some(LogSeverity::Debug), None)).unwrap();
        let kept = folder.path().join("kept.log");
        std::fs::rename(&path, &kept).unwrap();
        logging.reopen_file().unwrap();
        say_everything();
        assert_eq!(
            said(&screen.text()),
            ["debug", "info", "warning", "error", "fatal"]
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        logging
            .set_levels(&both(None, Some(LogSeverity::Warning)))
            .unwrap();
        screen.0.lock().unwrap().clear();
        say_everything();
        assert_eq!(screen.text(), "");
        assert_eq!(
            said(&std::fs::read_to_string(&path).unwrap()),
            ["warning", "error", "fatal"]
        );
        assert_eq!(
            said(&std::fs::read_to_string(&kept).unwrap()),
            ["info", "warning", "error", "fatal"]
        );
    });

    // Lines have fields, in text and as JSON, and words from outside cannot make a second line of a terminal's colours.
    let screen = Screen::default();
    let (subscriber, _logging) = build(&options(Some(LogSeverity::Info)), errors(), screen.clone(), false);
    with_default(
        subscriber,
        || tracing::info!(policy = "a/b", rules = 3, name = %"\u{1b}[31mred\nforged line", "policy is in force"),
    );
    let text = screen.text();
    assert!(
        text.contains("INFO") && text.contains("policy is in force policy=\"a/b\" rules=3"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}') && text.lines().count() == 1, "{text:?}");

    let screen = Screen::default();
    let json = LoggingOptions {
        format: LogFormat::Json,
        ..options(Some(LogSeverity::Info))
    };
    let (subscriber, _logging) = build(&json, errors(), screen.clone(), false);
    with_default(subscriber, || {
        tracing::warn!(policy = "a/b", rules = 3, "policy is \"in force\"")
    });
    let line: serde_json::Value = serde_json::from_str(screen.text().trim()).unwrap();
    assert_eq!(line["message"], "policy is \"in force\"");
    assert_eq!(line["policy"], "a/b");
    assert_eq!(line["rules"], 3);
    assert_eq!(line["level"], "WARN");
    assert!(
        line["timestamp"].is_string() && line["target"].is_string(),
        "{line}"
    );
}

#[test]
fn a_file_that_cannot_be_opened_leaves_the_screen() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let screen = Screen::default();
    let wanted = LoggingOptions {
        screen: Some(LogSeverity::Info),
        file: Some(LogSeverity::Info),
        path: blocked.join("felix.log"),
        format: LogFormat::Text,
    };
    let (_subscriber, logging) = build(&wanted, errors(), screen, false);
    let trouble = logging.file_trouble().unwrap().to_string();
    assert!(
        trouble.contains(&wanted.path.display().to_string()) && trouble.contains("LogFilePath"),
        "{trouble}"
    );
    assert!(logging.reopen_file().is_ok());
}

#[test]
fn options_come_from_the_settings() {
    let from = LoggingOptions::from(&Settings::built_in());
    assert_eq!(from.screen, Some(LogSeverity::Info));
    assert_eq!(from.path, PathBuf::from("/var/log/calico/felix.log"));
    assert_eq!(from.format, LogFormat::Text);
}
