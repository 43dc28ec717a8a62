//! Whether one hears another: programs at addresses of both families, which say numbers and hear them.

use super::Family;
use crate::bed::{wait_for, within};
use crate::program::Program;
use crate::wire::PATIENCE;
use crate::world::Pinned;
use dataplane_netlink::NetworkNamespace;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers that programs say; none twice, and none that packets made by hand have.
static NUMBERS: AtomicU32 = AtomicU32::new(0x1_0000);

fn number() -> u32 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// Where programs of both families are, each at a port that others know.
///
/// What they say themselves they say from another port each time: a known flow would go on whatever policy says.
#[derive(Debug)]
pub struct Spot {
    namespace: NetworkNamespace,
    programs: Vec<Program>,
}

impl Spot {
    /// Starts a program at each of these addresses of a namespace.
    pub fn new(namespace: &NetworkNamespace, addresses: &[IpAddr], port: u16) -> Self {
        let program = |address: &IpAddr| Program::at(namespace, SocketAddr::new(*address, port));
        Spot {
            programs: addresses.iter().map(program).collect(),
            namespace: within(namespace, || {
                NetworkNamespace::current().expect("a handle on the namespace")
            }),
        }
    }

    fn program(&self, family: Family) -> &Program {
        let is_of = |program: &&Program| Family::of(program.address().ip()) == family;
        self.programs.iter().find(is_of).expect("a program of the family")
    }

    /// A program at its address whose port nobody has used.
    fn another(&self, family: Family) -> Program {
        Program::at(&self.namespace, SocketAddr::new(self.address(family), 0))
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        self.program(family).address().ip()
    }

    /// Says something until the other has heard it and its answer has come back; returns whom the other heard.
    pub fn reaches(&self, other: &Spot, family: Family) -> IpAddr {
        let (own, other) = (self.another(family), other.program(family));
        let what = format!("a word from {} to {} and back", own.address(), other.address());
        let mut said = Vec::new();
        let mut tries = 0;
        let mut from = None;
        wait_for(&what, PATIENCE, || {
            // The first words may be lost: whoever carries them does not know the way yet.
            if tries % 50 == 0 {
                said.push(number());
                own.say(said[said.len() - 1], other.address());
            }
            tries += 1;
            for (question, sender) in other.heard() {
                if said.contains(&question) {
                    from = Some(sender.ip());
                    other.say(question, sender);
                }
            }
            let answered = own.heard().iter().any(|(answer, _)| said.contains(answer));
            from.filter(|_| answered)
        })
    }

    /// Whether the other hears nothing of this one while it hears somebody else who takes the same way.
    ///
    /// `control` is on the same node as this one, and `witness` on the same as the other; between these two words pass.
    /// The machines carry what one processor sends in its order, so that a word that was sent before has had its chance.
    pub fn is_kept_from(&self, other: &Spot, family: Family, control: &Spot, witness: &Spot) -> bool {
        control.reaches(witness, family);
        let _pinned = Pinned::here();
        let (own, there) = (self.another(family), other.program(family));
        let (control, witness) = (control.another(family), witness.program(family));
        let question = number();
        there.heard();
        own.say(question, there.address());
        for _ in 0..2 {
            let last = number();
            control.say(last, witness.address());
            let what = format!("the word of the control {}", control.address());
            let mut mine = false;
            wait_for(&what, PATIENCE, || {
                let heard = witness.heard();
                mine |= heard.iter().any(|(number, _)| *number == question);
                heard.iter().any(|(number, _)| *number == last).then_some(())
            });
            if mine {
                return false;
            }
        }
        !there.heard().iter().any(|(number, _)| *number == question)
    }

    /// Whether a packet with this number, which is none of [`Spot::reaches`], is heard here after it was sent by hand and
    /// `afterwards` has gone the same way.
    pub fn hears_of(&self, family: Family, wanted: u32, send: impl FnOnce(), afterwards: impl Fn()) -> bool {
        let own = self.program(family);
        afterwards();
        own.heard();
        let _pinned = Pinned::here();
        send();
        afterwards();
        afterwards();
        own.heard().iter().any(|(number, _)| *number == wanted)
    }
}
