//! Conversations made by hand: both ends are wires, so that every packet of a flow is sent when a test wants it, and
//! whether it arrived is known at once.
//!
//! The places have to be silent ([`crate::world::World::silence`]), or their kernels would answer with resets.

use crate::packet::{ACK, DATA, GO_ON, Probe, SYN, Segment, ends_of};
use crate::world::{Place, World};
use policy_model::Protocol;
use std::net::SocketAddr;

/// One of the two that talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that began.
    Client,
    /// The other.
    Server,
}

/// One end of a conversation.
#[derive(Clone, Copy, Debug)]
struct End {
    place: Place,
    own: SocketAddr,
    peer: SocketAddr,
    /// Number of the next byte that is sent.
    next: u32,
}

/// A flow of TCP or UDP.
#[derive(Clone, Debug)]
pub struct Talk {
    protocol: Protocol,
    client: End,
    server: End,
}

impl Talk {
    /// A flow that does not exist yet, from a client to a target.
    pub fn new(world: &World, protocol: Protocol, client: SocketAddr, target: SocketAddr) -> Self {
        Talk::to(world, protocol, client, target, world.place(target.ip()))
    }

    /// The same where the target is an address that is translated on the way, and the server somewhere else.
    pub fn to(
        world: &World,
        protocol: Protocol,
        client: SocketAddr,
        target: SocketAddr,
        server: Place,
    ) -> Self {
        let end = |place, own, peer, next| End {
            place,
            own,
            peer,
            next,
        };
        Talk {
            protocol,
            client: end(world.place(client.ip()), client, target, 1_000),
            server: end(server, target, client, 500_000),
        }
    }

    /// Another flow between the same, from another port, that does not exist yet.
    pub fn anew(&self) -> Self {
        let port = self.client.own.port() ^ 0x4000;
        let own = SocketAddr::new(self.client.own.ip(), port);
        let client = End {
            own,
            next: 9_000,
            ..self.client
        };
        let server = End {
            peer: own,
            next: 700_000,
            ..self.server
        };
        Talk {
            protocol: self.protocol,
            client,
            server,
        }
    }

    /// Begins: the handshake of TCP; for UDP a packet and an answer. Says whether all of it arrived.
    pub fn open(&mut self, world: &mut World) -> bool {
        if self.protocol == Protocol::UDP {
            return self.says(world, Side::Client) && self.says(world, Side::Server);
        }
        self.step(world, Side::Client, SYN)
            && self.step(world, Side::Server, SYN | ACK)
            && self.step(world, Side::Client, ACK)
    }

    /// Sends the next packet of one side, and says whether it arrived at the other.
    pub fn says(&mut self, world: &mut World, side: Side) -> bool {
        self.step(world, side, GO_ON)
    }

    /// Whether packets of both sides arrive.
    pub fn goes_on(&mut self, world: &mut World) -> bool {
        self.says(world, Side::Client) && self.says(world, Side::Server)
    }

    /// Whether no packet of either side arrives, though both go on trying, in turns and in either order.
    pub fn is_cut(&mut self, world: &mut World) -> bool {
        use Side::{Client, Server};
        [Client, Server, Server, Client, Client, Server]
            .into_iter()
            .all(|side| !self.says(world, side))
    }

    /// The frame of a side's next packet, which counts as sent.
    pub fn frame(&mut self, world: &World, side: Side, number: u32) -> (Place, Vec<u8>) {
        self.build(world, side, GO_ON, number)
    }

    /// The client as the server sees it.
    pub fn client_seen(&self) -> SocketAddr {
        self.server.peer
    }

    fn build(&mut self, world: &World, side: Side, flags: u8, number: u32) -> (Place, Vec<u8>) {
        let (from, to) = match side {
            Side::Client => (&mut self.client, &self.server),
            Side::Server => (&mut self.server, &self.client),
        };
        let probe = Probe {
            number,
            source: from.own.ip(),
            destination: from.peer.ip(),
            protocol: self.protocol,
            x: from.peer.port(),
            y: from.own.port(),
        };
        let (place, gateway, mac) = (
            from.place,
            world.gateway_mac(from.place),
            world.at(from.place).wire.mac,
        );
        if self.protocol != Protocol::TCP {
            return (place, probe.frame(gateway, mac));
        }
        let segment = Segment {
            flags,
            sequence: from.next,
            acknowledgement: if flags & ACK == 0 { 0 } else { to.next },
        };
        // Opening counts as one byte more.
        from.next += DATA + u32::from(flags & SYN != 0);
        (place, probe.segment(gateway, mac, segment))
    }

    fn step(&mut self, world: &mut World, side: Side, flags: u8) -> bool {
        let number = world.number();
        let frame = self.build(world, side, flags, number);
        let there = match side {
            Side::Client => self.server.place,
            Side::Server => self.client.place,
        };
        let arrived = world.deliver(&[frame]);
        let mut found = arrived.iter().filter(|a| a.number == number && a.place == there);
        let ends = found.find_map(|a| ends_of(&a.frame).filter(|(p, _, _)| *p == self.protocol));
        let Some((_, source, destination)) = ends else {
            return false;
        };
        match side {
            // Translation may have changed either: the server answers what it sees.
            Side::Client => (self.server.peer, self.server.own) = (source, destination),
            Side::Server => {
                assert_eq!(
                    (source, destination),
                    (self.client.peer, self.client.own),
                    "an answer has to look as if it came from whom the client spoke to"
                );
            }
        }
        true
    }
}
