//! Expressions to bytes, in the order of attributes that the nft program uses, so that captures compare byte by byte.

use super::super::attribute;
use super::super::register::Register;
use super::super::verdict::encode_value;
use super::{CtKey, Expr, Lookup, MetaKey, OnHit};

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
/// `NFT_REG_VERDICT`.
pub(super) const REGISTER_VERDICT: u32 = 0;
pub(super) const NFT_LOOKUP_F_INV: u32 = 1;

/// The attribute numbers of the expressions in this file.
pub(super) mod kind {
    pub(in super::super) const META_DREG: u16 = 1;
    pub(in super::super) const META_KEY: u16 = 2;
    pub(in super::super) const META_SREG: u16 = 3;
    pub(in super::super) const PAYLOAD_DREG: u16 = 1;
    pub(in super::super) const PAYLOAD_BASE: u16 = 2;
    pub(in super::super) const PAYLOAD_OFFSET: u16 = 3;
    pub(in super::super) const PAYLOAD_LEN: u16 = 4;
    pub(in super::super) const PAYLOAD_SREG: u16 = 5;
    pub(in super::super) const CT_DREG: u16 = 1;
    pub(in super::super) const CT_KEY: u16 = 2;
    pub(in super::super) const CT_DIRECTION: u16 = 3;
    pub(in super::super) const CT_SREG: u16 = 4;
    pub(in super::super) const CMP_SREG: u16 = 1;
    pub(in super::super) const CMP_OP: u16 = 2;
    pub(in super::super) const CMP_DATA: u16 = 3;
    pub(in super::super) const RANGE_SREG: u16 = 1;
    pub(in super::super) const RANGE_OP: u16 = 2;
    pub(in super::super) const RANGE_FROM: u16 = 3;
    pub(in super::super) const RANGE_TO: u16 = 4;
    pub(in super::super) const BITWISE_SREG: u16 = 1;
    pub(in super::super) const BITWISE_DREG: u16 = 2;
    pub(in super::super) const BITWISE_LEN: u16 = 3;
    pub(in super::super) const BITWISE_MASK: u16 = 4;
    pub(in super::super) const BITWISE_XOR: u16 = 5;
    pub(in super::super) const BITWISE_OP: u16 = 6;
    pub(in super::super) const BYTEORDER_SREG: u16 = 1;
    pub(in super::super) const BYTEORDER_DREG: u16 = 2;
    pub(in super::super) const BYTEORDER_OP: u16 = 3;
    pub(in super::super) const BYTEORDER_LEN: u16 = 4;
    pub(in super::super) const BYTEORDER_SIZE: u16 = 5;
    pub(in super::super) const LOOKUP_SET: u16 = 1;
    pub(in super::super) const LOOKUP_SREG: u16 = 2;
    pub(in super::super) const LOOKUP_DREG: u16 = 3;
    pub(in super::super) const LOOKUP_SET_ID: u16 = 4;
    pub(in super::super) const LOOKUP_FLAGS: u16 = 5;
    pub(in super::super) const IMMEDIATE_DREG: u16 = 1;
    pub(in super::super) const IMMEDIATE_DATA: u16 = 2;
    pub(in super::super) const COUNTER_BYTES: u16 = 1;
    pub(in super::super) const COUNTER_PACKETS: u16 = 2;
    pub(in super::super) const MASQ_FLAGS: u16 = 1;
    pub(in super::super) const MASQ_PORT_MIN: u16 = 2;
    pub(in super::super) const MASQ_PORT_MAX: u16 = 3;
    pub(in super::super) const REDIR_PORT_MIN: u16 = 1;
    pub(in super::super) const REDIR_PORT_MAX: u16 = 2;
    pub(in super::super) const REDIR_FLAGS: u16 = 3;
}

/// Appends the elements of a rule's list of expressions.
pub(crate) fn encode_list(out: &mut Vec<u8>, expressions: &[Expr]) {
    for expression in expressions {
        let element = attribute::open(out, NFTA_LIST_ELEM);
        attribute::text(out, NFTA_EXPR_NAME, name(expression));
        if !matches!(expression, Expr::NoTrack) {
            let data = attribute::open(out, NFTA_EXPR_DATA);
            encode(out, expression);
            attribute::close(out, data);
        }
        attribute::close(out, element);
    }
}

fn name(expression: &Expr) -> &str {
    match expression {
        Expr::Meta { .. } | Expr::SetMeta { .. } => "meta",
        Expr::Payload { .. } => "payload",
        Expr::Ct { .. } | Expr::SetCt { .. } => "ct",
        Expr::Cmp { .. } => "cmp",
        Expr::Range { .. } => "range",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Byteorder { .. } => "byteorder",
        Expr::Lookup(_) => "lookup",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Counter { .. } => "counter",
        Expr::Log(_) => "log",
        Expr::Limit(_) => "limit",
        Expr::Reject(_) => "reject",
        Expr::Fib(_) => "fib",
        Expr::NoTrack => "notrack",
        Expr::Masquerade { .. } => "masq",
        Expr::Redirect { .. } => "redir",
        Expr::Nat(_) => "nat",
        Expr::Foreign { name, .. } => name,
    }
}

fn encode(out: &mut Vec<u8>, expression: &Expr) {
    match expression {
        Expr::Meta { key, to } => encode_meta(out, *key, kind::META_DREG, *to),
        Expr::SetMeta { key, from } => encode_meta(out, *key, kind::META_SREG, *from),
        Expr::Payload {
            base,
            offset,
            len,
            to,
        } => {
            put(out, kind::PAYLOAD_DREG, *to);
            attribute::be32(out, kind::PAYLOAD_BASE, base.number());
            attribute::be32(out, kind::PAYLOAD_OFFSET, *offset);
            attribute::be32(out, kind::PAYLOAD_LEN, *len);
        }
        Expr::Ct { key, direction, to } => {
            encode_ct(out, *key, kind::CT_DREG, *to);
            if let Some(direction) = direction {
                attribute::bytes(out, kind::CT_DIRECTION, &[direction.number() as u8]);
            }
        }
        Expr::SetCt { key, from } => encode_ct(out, *key, kind::CT_SREG, *from),
        Expr::Cmp { op, from, value } => {
            put(out, kind::CMP_SREG, *from);
            attribute::be32(out, kind::CMP_OP, op.number());
            encode_value(out, kind::CMP_DATA, value);
        }
        Expr::Range {
            op,
            from,
            first,
            last,
        } => {
            put(out, kind::RANGE_SREG, *from);
            attribute::be32(out, kind::RANGE_OP, op.number());
            encode_value(out, kind::RANGE_FROM, first);
            encode_value(out, kind::RANGE_TO, last);
        }
        Expr::Bitwise { from, to, mask, xor } => {
            put(out, kind::BITWISE_SREG, *from);
            put(out, kind::BITWISE_DREG, *to);
            attribute::be32(out, kind::BITWISE_LEN, mask.as_bytes().len() as u32);
            encode_value(out, kind::BITWISE_MASK, mask);
            encode_value(out, kind::BITWISE_XOR, xor);
        }
        Expr::Byteorder {
            from,
            to,
            op,
            len,
            size,
        } => {
            put(out, kind::BYTEORDER_SREG, *from);
            put(out, kind::BYTEORDER_DREG, *to);
            attribute::be32(out, kind::BYTEORDER_OP, op.number());
            attribute::be32(out, kind::BYTEORDER_LEN, *len);
            attribute::be32(out, kind::BYTEORDER_SIZE, *size);
        }
        Expr::Lookup(lookup) => encode_lookup(out, lookup),
        Expr::Immediate { to, value } => {
            put(out, kind::IMMEDIATE_DREG, *to);
            encode_value(out, kind::IMMEDIATE_DATA, value);
        }
        Expr::Verdict(verdict) => {
            attribute::be32(out, kind::IMMEDIATE_DREG, REGISTER_VERDICT);
            verdict.encode(out, kind::IMMEDIATE_DATA);
        }
        Expr::Counter { packets: 0, bytes: 0 } | Expr::NoTrack => {}
        Expr::Counter { packets, bytes } => {
            attribute::be64(out, kind::COUNTER_BYTES, *bytes);
            attribute::be64(out, kind::COUNTER_PACKETS, *packets);
        }
        Expr::Log(log) => log.encode(out),
        Expr::Limit(limit) => limit.encode(out),
        Expr::Reject(reject) => reject.encode(out),
        Expr::Fib(fib) => fib.encode(out),
        Expr::Masquerade { flags, ports } => {
            if *flags != 0 {
                attribute::be32(out, kind::MASQ_FLAGS, *flags);
            }
            if let Some(ports) = ports {
                ports.encode(out, kind::MASQ_PORT_MIN, kind::MASQ_PORT_MAX);
            }
        }
        Expr::Redirect { flags, ports } => {
            if let Some(ports) = ports {
                ports.encode(out, kind::REDIR_PORT_MIN, kind::REDIR_PORT_MAX);
            }
            if *flags != 0 {
                attribute::be32(out, kind::REDIR_FLAGS, *flags);
            }
        }
        Expr::Nat(nat) => nat.encode(out),
        Expr::Foreign { data, .. } => out.extend_from_slice(data),
    }
}

fn put(out: &mut Vec<u8>, kind: u16, register: Register) {
    attribute::be32(out, kind, register.number());
}

fn encode_meta(out: &mut Vec<u8>, key: MetaKey, side: u16, register: Register) {
    attribute::be32(out, kind::META_KEY, key.number());
    put(out, side, register);
}

fn encode_ct(out: &mut Vec<u8>, key: CtKey, side: u16, register: Register) {
    attribute::be32(out, kind::CT_KEY, key.number());
    put(out, side, register);
}

fn encode_lookup(out: &mut Vec<u8>, lookup: &Lookup) {
    put(out, kind::LOOKUP_SREG, lookup.from);
    match lookup.hit {
        OnHit::Match | OnHit::Fail => {}
        OnHit::Load(register) => put(out, kind::LOOKUP_DREG, register),
        OnHit::Verdict => attribute::be32(out, kind::LOOKUP_DREG, REGISTER_VERDICT),
    }
    attribute::text(out, kind::LOOKUP_SET, &lookup.set);
    if let Some(id) = lookup.id {
        attribute::be32(out, kind::LOOKUP_SET_ID, id.number());
    }
    if lookup.hit == OnHit::Fail {
        attribute::be32(out, kind::LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
    }
}
