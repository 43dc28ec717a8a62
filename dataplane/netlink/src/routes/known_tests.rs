//! Tests of what is known of routes, against a model of a kernel that changes them and says so late or never.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::routes::observe::ObservedTarget;

/// Something happens to the kernel's table.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// A route is added where there is none of its key.
    Add(ObservedRoute),
    /// A route takes the place of the one of its key.
    Replace(ObservedRoute),
    /// The route of that key goes.
    Remove(ObservedRoute),
    /// An interface goes down: its routes go without a word.
    Down(u32),
    /// The news that waits is read.
    Read,
    /// The table is read.
    Look,
}

/// One piece of the kernel's news.
#[derive(Debug, Clone, Copy)]
enum Word {
    Came(ObservedRoute),
    Went(ObservedRoute),
    Down(u32),
}

fn route() -> impl Strategy<Value = ObservedRoute> {
    let protocol = prop_oneof![Just(80u8), Just(3), Just(4)];
    (0u8..3, 1u32..3, protocol, 0u32..2).prop_map(|(last, link, protocol, metric)| ObservedRoute {
        destination: format!("10.0.0.{last}/32").parse().unwrap(),
        target: ObservedTarget::Device { link, source: None },
        protocol,
        metric,
        tos: 0,
    })
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => route().prop_map(Deed::Add),
        2 => route().prop_map(Deed::Replace),
        3 => route().prop_map(Deed::Remove),
        1 => (1u32..3).prop_map(Deed::Down),
        3 => Just(Deed::Read),
        1 => Just(Deed::Look),
    ]
}

#[derive(Debug, Default)]
struct Kernel {
    table: Vec<ObservedRoute>,
    news: VecDeque<Word>,
}

impl Kernel {
    fn of_key(&self, route: &ObservedRoute) -> Option<usize> {
        let same = |other: &ObservedRoute| {
            other.destination == route.destination && (other.tos, other.metric) == (route.tos, route.metric)
        };
        self.table.iter().position(same)
    }

    fn suffer(&mut self, deed: Deed) {
        match deed {
            Deed::Add(route) if self.of_key(&route).is_none() => {
                self.table.push(route);
                self.news.push_back(Word::Came(route));
            }
            Deed::Replace(route) => {
                if let Some(place) = self.of_key(&route) {
                    self.table[place] = route;
                    self.news.push_back(Word::Came(route));
                }
            }
            Deed::Remove(route) => {
                if let Some(place) = self.of_key(&route) {
                    let gone = self.table.remove(place);
                    self.news.push_back(Word::Went(gone));
                }
            }
            Deed::Down(link) => {
                self.table.retain(|route| route.interface() != Some(link));
                self.news.push_back(Word::Down(link));
            }
            Deed::Add(_) | Deed::Read | Deed::Look => {}
        }
    }

    fn marked(&self) -> BTreeSet<(IpNet, String)> {
        let marked = self.table.iter().filter(|route| is_marked([80, 3], route));
        marked.map(named).collect()
    }
}

fn named(route: &ObservedRoute) -> (IpNet, String) {
    (route.destination, format!("{route:?}"))
}

/// Follows the kernel as the dataplane does: in doubt, it reads the table at the next look, and not before.
#[derive(Debug)]
struct Follower {
    known: KnownRoutes,
    doubts: bool,
    changed: BTreeSet<IpNet>,
}

impl Follower {
    fn read(&mut self, news: &mut VecDeque<Word>) {
        for word in news.drain(..) {
            let meaning = match word {
                Word::Came(route) => self.known.came(route),
                Word::Went(route) => self.known.went(&route),
                Word::Down(link) => {
                    self.changed.extend(self.known.lost_link(link));
                    News::Nothing
                }
            };
            match meaning {
                News::Nothing => {}
                News::Destination(destination) => drop(self.changed.insert(destination)),
                News::Doubt => self.doubts = true,
            }
        }
    }

    fn look(&mut self, kernel: &Kernel) {
        self.known.replace(kernel.table.iter().copied());
        self.doubts = false;
    }

    fn seen(&self) -> BTreeSet<(IpNet, String)> {
        let all = self.known.destinations().flat_map(|d| self.known.at(d));
        all.map(named).collect()
    }
}

proptest! {
    #[test]
    fn what_is_known_is_what_the_kernel_has_unless_there_is_doubt(
        deeds in proptest::collection::vec(deed(), 0..40)
    ) {
        let mut kernel = Kernel::default();
        let mut follower = Follower {
            known: KnownRoutes::new(&RouteOwnership::default()),
            doubts: false,
            changed: BTreeSet::new(),
        };
        let (mut before, mut looked) = (follower.seen(), false);
        for deed in deeds {
            match deed {
                Deed::Read => follower.read(&mut kernel.news),
                Deed::Look => {
                    follower.look(&kernel);
                    looked = true;
                }
                other => kernel.suffer(other),
            }
            if !kernel.news.is_empty() {
                continue;
            }
            if follower.doubts {
                // In doubt the table is read; then nothing waits, and it is right.
                follower.look(&kernel);
            } else if !looked {
                // Every change is told with its destination, except those that a reading found.
                for (destination, route) in follower.seen().symmetric_difference(&before) {
                    prop_assert!(follower.changed.contains(destination), "{route} was not told");
                }
            }
            prop_assert_eq!(follower.seen(), kernel.marked());
            (before, looked) = (follower.seen(), false);
            follower.changed.clear();
            for link in 1..3 {
                let led: BTreeSet<IpNet> = follower.known.on_link(link).copied().collect();
                let leads = |route: &&ObservedRoute| {
                    route.interface() == Some(link) && is_marked([80, 3], route)
                };
                let expected: BTreeSet<IpNet> =
                    kernel.table.iter().filter(leads).map(|route| route.destination).collect();
                prop_assert_eq!(led, expected);
            }
        }
    }
}

#[test]
fn our_own_writes_heard_again_mean_nothing() {
    let mut known = KnownRoutes::new(&RouteOwnership::default());
    let route = ObservedRoute {
        destination: "10.0.0.1/32".parse().unwrap(),
        target: ObservedTarget::Device {
            link: 7,
            source: None,
        },
        protocol: 3,
        metric: 0,
        tos: 0,
    };
    assert_eq!(known.came(route), News::Destination(route.destination));
    assert_eq!(known.came(route), News::Nothing);
    // Somebody else's takes its place.
    let other = ObservedRoute { protocol: 4, ..route };
    assert_eq!(known.came(other), News::Doubt);
}
