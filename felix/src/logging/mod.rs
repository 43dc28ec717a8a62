//! What the agent says while it works: to the screen and to a file, with Calico's levels.
//!
//! A line has a time, a level, a place, a message and `key=value` fields, or is a JSON object with the same. Error
//! lines are counted for `felix_log_errors`, wherever they go. The levels can change while the agent runs.
//!
//! | room | what it does |
//! |---|---|
//! | [`threshold`] | which events a level lets through |
//! | [`file`] | the log file, which can be opened anew |

pub mod file;
pub mod threshold;

use crate::settings::Settings;
use crate::settings::parse::{LogFormat, LogSeverity};
use file::LogFile;
use prometheus::IntCounter;
use std::io::IsTerminal;
use std::path::PathBuf;
use thiserror::Error;
use threshold::Threshold;
use tracing::field::Field;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

/// The place of events that end the agent. Only these pass the level FATAL.
pub const FATAL_TARGET: &str = "fatal";

/// Why there is no log as asked for.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// The log file cannot be opened.
    #[error("the log file {} cannot be opened: {source}; set LogFilePath (FELIX_LOGFILEPATH) to another file, or to none", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another part of the process has set up a log already.
    #[error("the log is set up already")]
    Twice,
    /// A level could not be changed.
    #[error("the level of the log cannot be changed")]
    Level(#[source] reload::Error),
}

/// What is logged, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggingOptions {
    /// The least severity on the screen; none writes nothing.
    pub screen: Option<LogSeverity>,
    /// The least severity in the file; none writes nothing.
    pub file: Option<LogSeverity>,
    /// The file; the empty path writes no file.
    pub path: PathBuf,
    /// How a line is written.
    pub format: LogFormat,
}

impl From<&Settings> for LoggingOptions {
    fn from(settings: &Settings) -> Self {
        LoggingOptions {
            screen: settings.log_severity_screen,
            file: settings.log_severity_file,
            path: settings.log_file_path.clone(),
            format: settings.log_format,
        }
    }
}

type Reload = reload::Handle<Threshold, Registry>;

/// The running log: its levels and its file.
#[derive(Debug)]
pub struct Logging {
    screen: Reload,
    in_file: Option<(Reload, LogFile)>,
    file_trouble: Option<LoggingError>,
}

impl Logging {
    /// Why there is no log file although one was asked for. The agent goes on without: enforcement matters more than
    /// its record, and the screen has it too.
    pub fn file_trouble(&self) -> Option<&LoggingError> {
        self.file_trouble.as_ref()
    }

    /// Changes the levels to those of the options; the file and the format stay.
    ///
    /// # Errors
    /// When the log is gone.
    pub fn set_levels(&self, options: &LoggingOptions) -> Result<(), LoggingError> {
        self.screen
            .reload(Threshold(options.screen))
            .map_err(LoggingError::Level)?;
        if let Some((level, _)) = &self.in_file {
            level
                .reload(Threshold(options.file))
                .map_err(LoggingError::Level)?;
        }
        Ok(())
    }

    /// Opens the log file anew, after it was renamed to be kept.
    ///
    /// # Errors
    /// When it cannot be opened; lines go on into the old one.
    pub fn reopen_file(&self) -> Result<(), LoggingError> {
        self.in_file.as_ref().map_or(Ok(()), |(_, file)| file.reopen())
    }
}

/// Sets up the log of the whole process. The screen is standard error, so that what a command prints stays clean.
///
/// # Errors
/// When there is one already.
pub fn set_up(options: &LoggingOptions, errors: IntCounter) -> Result<Logging, LoggingError> {
    let colours = std::io::stderr().is_terminal();
    let (subscriber, logging) = build(options, errors, std::io::stderr, colours);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)?;
    Ok(logging)
}

/// Makes a log that is not yet in use, with a screen of the caller's choice.
pub fn build<W>(
    options: &LoggingOptions,
    errors: IntCounter,
    screen: W,
    colours: bool,
) -> (impl Subscriber + Send + Sync + 'static, Logging)
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    let (on_screen, screen_level) = reload::Layer::new(Threshold(options.screen));
    layers.push(
        lines(options.format, screen, colours)
            .with_filter(on_screen)
            .boxed(),
    );

    let (file, file_trouble) = match options.path.as_os_str().is_empty() || options.file.is_none() {
        true => (None, None),
        false => match LogFile::open(&options.path) {
            Ok(file) => (Some(file), None),
            Err(error) => (None, Some(error)),
        },
    };
    let in_file = file.map(|file| {
        let (in_file, level) = reload::Layer::new(Threshold(options.file));
        layers.push(
            lines(options.format, file.clone(), false)
                .with_filter(in_file)
                .boxed(),
        );
        (level, file)
    });
    layers.push(CountErrors(errors).boxed());
    (
        Registry::default().with(layers),
        Logging {
            screen: screen_level,
            in_file,
            file_trouble,
        },
    )
}

/// The layer that writes lines of a format.
fn lines<S, W>(format: LogFormat, writer: W, colours: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => layer
            .with_ansi(colours)
            .fmt_fields(debug_fn(field).delimited(" "))
            .boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// Writes one field. Names and values may come from outside: a line break or an escape sequence in one must not make
/// a second line or command somebody's terminal.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    for letter in format!("{value:?}").chars() {
        match letter.is_control() {
            true => write!(writer, "{}", letter.escape_default())?,
            false => writer.write_char(letter)?,
        }
    }
    Ok(())
}

/// Counts error lines.
struct CountErrors(IntCounter);

impl<S: Subscriber> Layer<S> for CountErrors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            self.0.inc();
        }
    }
}

#[cfg(test)]
mod tests;
