//! How patiently the API server is asked, and for what.

use std::time::Duration;

/// How the store deals with its API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether Kubernetes' own objects are translated. Without it every kind is kept as a custom resource and the API
    /// server is a mere store of objects; the definitions of all kinds must then exist.
    pub translate: bool,
    /// Whether streaming lists are tried before plain ones.
    pub streaming: bool,
    /// Whether Kubernetes' own objects are asked for in their binary form, of which only what is needed is read.
    pub binary: bool,
    /// The longest that one request may take; a hanging server is as good as none.
    pub request_timeout: Duration,
    /// The longest that a watch may be silent. API servers send bookmarks about every minute, so a longer silence means
    /// that nobody is there, or that nothing is lost by asking anew.
    pub silence: Duration,
    /// For how long a broken watch is taken up again before its reader hears of it. A restart of an API server is
    /// shorter, and thousands of agents that list anew would bring it down again.
    pub patience: Duration,
    /// How often is looked whether a custom resource that is not defined has come.
    pub absence: Duration,
    /// The first and the longest pause between two tries; a pause is shortened at random by up to half.
    pub pauses: (Duration, Duration),
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            translate: true,
            streaming: true,
            binary: true,
            request_timeout: Duration::from_secs(30),
            silence: Duration::from_secs(150),
            patience: Duration::from_secs(60),
            absence: Duration::from_secs(15),
            pauses: (Duration::from_millis(100), Duration::from_secs(10)),
        }
    }
}
