//! The door through which pods come onto the node: once it is shut, whoever wants in hears why.
//!
//! Who is inside already goes through to the end, and is counted: a node is empty only when nobody stands in the door.

use felix_cni::{Answer, Caller, Command, Failure, Handler, Request, code};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// What a runtime is told. It tries again, and the pod comes up when the node has a network.
const REFUSAL: &str = "Manx is being uninstalled from this node: no pod is connected any more; install a network, or \
                       move the pod to another node";

/// The door of one node. Clones are the same door.
#[derive(Clone, Debug, Default)]
pub(crate) struct Door(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_shut: AtomicBool,
    inside: watch::Sender<usize>,
}

/// Somebody who stands in the door; no longer, once this is dropped.
struct Inside<'a>(&'a State);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0
            .inside
            .send_modify(|inside| *inside = inside.saturating_sub(1));
    }
}

impl Door {
    pub(super) fn shut(&self) {
        self.0.is_shut.store(true, Ordering::SeqCst);
    }

    pub(super) fn open(&self) {
        self.0.is_shut.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.0.is_shut.load(Ordering::SeqCst)
    }

    /// Follows how many stand in it.
    pub(super) fn inside(&self) -> watch::Receiver<usize> {
        self.0.inside.subscribe()
    }

    fn enter(&self) -> Option<Inside<'_>> {
        // Counted before the look: who shuts the door and then counts nobody knows that nobody follows.
        self.0.inside.send_modify(|inside| *inside += 1);
        let inside = Inside(&self.0);
        (!self.is_shut()).then_some(inside)
    }
}

/// Answers requests through a door.
#[derive(Debug)]
pub(crate) struct Guarded<H> {
    handler: H,
    door: Door,
}

impl<H: Handler> Guarded<H> {
    pub(crate) fn new(handler: H, door: Door) -> Self {
        Guarded { handler, door }
    }
}

impl<H: Handler> Handler for Guarded<H> {
    async fn handle(&self, request: Request, caller: Caller) -> Answer {
        let refused = |code| Answer::Error(Failure::new(code, REFUSAL));
        let _inside = match request.command {
            Command::Add { .. } | Command::Assign { .. } => match self.door.enter() {
                Some(inside) => Some(inside),
                None => return refused(code::TRY_AGAIN),
            },
            Command::Status if self.door.is_shut() => return refused(code::NOT_AVAILABLE),
            Command::Del { .. } | Command::Check { .. } | Command::Gc { .. } | Command::Status => None,
        };
        self.handler.handle(request, caller).await
    }

    async fn settle(&self) -> bool {
        self.handler.settle().await
    }

    async fn run(&self) {
        self.handler.run().await;
    }

    async fn finish(&self) {
        self.handler.finish().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use felix_cni::{AttachmentKey, Success};
    use serde_json::json;

    struct Yes;

    impl Handler for Yes {
        async fn handle(&self, _: Request, _: Caller) -> Answer {
            Answer::Ok(Success::default())
        }
    }

    fn key() -> AttachmentKey {
        AttachmentKey {
            network: "n".into(),
            container_id: "c".into(),
            interface: "eth0".into(),
        }
    }

    async fn code_of(guarded: &Guarded<Yes>, command: Command) -> Option<u32> {
        match guarded.handle(Request::new(command), Caller::default()).await {
            Answer::Ok(_) => None,
            Answer::Error(failure) => {
                assert!(failure.to_string().contains("being uninstalled"), "{failure}");
                Some(failure.code)
            }
        }
    }

    #[tokio::test]
    async fn a_shut_door_lets_out_and_not_in() {
        let door = Door::default();
        let guarded = Guarded::new(Yes, door.clone());
        let coming_in = |command: &str| {
            let request =
                json!({ "command": command, "key": key(), "netns": "", "namespace": "", "pod": "" });
            move || serde_json::from_value::<Command>(request.clone()).unwrap()
        };
        let (add, assign) = (coming_in("add"), coming_in("assign"));
        assert_eq!(code_of(&guarded, add()).await, None);
        door.shut();
        assert_eq!(code_of(&guarded, add()).await, Some(code::TRY_AGAIN));
        assert_eq!(code_of(&guarded, assign()).await, Some(code::TRY_AGAIN));
        assert_eq!(
            code_of(&guarded, Command::Status).await,
            Some(code::NOT_AVAILABLE)
        );
        assert_eq!(code_of(&guarded, Command::Del { key: key() }).await, None);
        assert_eq!(*door.inside().borrow(), 0, "who was refused does not stand in it");
        door.open();
        assert_eq!(code_of(&guarded, add()).await, None);
        assert_eq!(code_of(&guarded, Command::Status).await, None);
    }

    #[test]
    fn who_is_inside_is_counted() {
        let door = Door::default();
        let inside = door.enter();
        assert!(inside.is_some());
        assert_eq!(*door.inside().borrow(), 1);
        door.shut();
        assert!(door.enter().is_none());
        assert_eq!(*door.inside().borrow(), 1);
        drop(inside);
        assert_eq!(*door.inside().borrow(), 0);
    }
}
