//! Which events a level lets through.

use super::FATAL_TARGET;
use crate::settings::parse::LogSeverity;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// The least severity that passes; none lets nothing through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold(pub Option<LogSeverity>);

impl Threshold {
    fn passes(self, metadata: &Metadata<'_>) -> bool {
        let level = metadata.level();
        match self.0 {
            None => false,
            Some(LogSeverity::Trace) => true,
            Some(LogSeverity::Debug) => *level <= Level::DEBUG,
            Some(LogSeverity::Info) => *level <= Level::INFO,
            Some(LogSeverity::Warning) => *level <= Level::WARN,
            Some(LogSeverity::Error) => *level <= Level::ERROR,
            // There is no such level among those of events; what ends the agent is told by its target.
            Some(LogSeverity::Fatal) => *level == Level::ERROR && metadata.target() == FATAL_TARGET,
        }
    }
}

impl<S> Filter<S> for Threshold {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.passes(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.passes(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.0 {
            None => LevelFilter::OFF,
            Some(LogSeverity::Trace) => LevelFilter::TRACE,
            Some(LogSeverity::Debug) => LevelFilter::DEBUG,
            Some(LogSeverity::Info) => LevelFilter::INFO,
            Some(LogSeverity::Warning) => LevelFilter::WARN,
            Some(LogSeverity::Error | LogSeverity::Fatal) => LevelFilter::ERROR,
        })
    }
}
