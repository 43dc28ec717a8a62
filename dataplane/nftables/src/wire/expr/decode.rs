//! Bytes to expressions.
//!
//! What has a form that [`Expr`] cannot say without loss (a payload that is written, a shift, a connection property that we have no
//! field for) is kept as foreign bytes, never guessed.

use super::super::attribute::{Attributes, Malformed, malformed, read_be32, read_be64, read_text};
use super::super::batch::SetId;
use super::super::register::Register;
use super::super::verdict::{Datum, decode_value};
use super::encode::{NFT_LOOKUP_F_INV, REGISTER_VERDICT, kind};
use super::statement::{Fib, Limit, Log, Nat, NatRange, Reject, number};
use super::{ByteorderOp, CmpOp, CtDirection, CtKey, Expr, Lookup, MetaKey, OnHit, PayloadBase, RangeOp};

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
/// `NFT_BITWISE_MASK_XOR`, the only bit operation that [`Expr`] says.
const BITWISE_MASK_XOR: u32 = 0;

/// Reads the elements of a rule's list of expressions.
pub(crate) fn decode_list(payload: &[u8]) -> Result<Vec<Expr>, Malformed> {
    let mut expressions = Vec::new();
    for (_, element) in Attributes::new(payload) {
        let attributes = Attributes::new(element);
        let name = attributes
            .find(NFTA_EXPR_NAME)
            .ok_or(malformed("expression without name"))?;
        let data = attributes.find(NFTA_EXPR_DATA).unwrap_or_default();
        let name = read_text(name);
        let known = decode(&name, Attributes::new(data))?;
        expressions.push(known.unwrap_or_else(|| Expr::Foreign {
            name,
            data: data.to_vec(),
        }));
    }
    Ok(expressions)
}

/// Reads a register that must be there.
pub(super) fn register(data: Attributes<'_>, kind: u16, what: &'static str) -> Result<Register, Malformed> {
    let number = read_be32(data.find(kind).ok_or(malformed(what))?, what)?;
    Register::from_number(number).ok_or(malformed(what))
}

fn required(data: Attributes<'_>, kind: u16, what: &'static str) -> Result<u32, Malformed> {
    number(data, kind, what)?.ok_or(malformed(what))
}

/// `None` for an expression that has no name here.
fn decode(name: &str, data: Attributes<'_>) -> Result<Option<Expr>, Malformed> {
    Ok(match name {
        "meta" => Some(decode_meta(data)?),
        "payload" if data.find(kind::PAYLOAD_SREG).is_none() => Some(Expr::Payload {
            base: PayloadBase::from_number(required(data, kind::PAYLOAD_BASE, "payload base")?),
            offset: required(data, kind::PAYLOAD_OFFSET, "payload offset")?,
            len: required(data, kind::PAYLOAD_LEN, "payload length")?,
            to: register(data, kind::PAYLOAD_DREG, "payload register")?,
        }),
        "ct" => Some(decode_ct(data)?),
        "cmp" => Some(Expr::Cmp {
            op: CmpOp::from_number(required(data, kind::CMP_OP, "comparison")?),
            from: register(data, kind::CMP_SREG, "comparison register")?,
            value: decode_value(data.find(kind::CMP_DATA).unwrap_or_default(), "comparison value")?,
        }),
        "range" => Some(Expr::Range {
            op: RangeOp::from_number(required(data, kind::RANGE_OP, "range")?),
            from: register(data, kind::RANGE_SREG, "range register")?,
            first: decode_value(data.find(kind::RANGE_FROM).unwrap_or_default(), "range start")?,
            last: decode_value(data.find(kind::RANGE_TO).unwrap_or_default(), "range end")?,
        }),
        "bitwise" => decode_bitwise(data)?,
        "byteorder" => Some(Expr::Byteorder {
            from: register(data, kind::BYTEORDER_SREG, "byteorder source")?,
            to: register(data, kind::BYTEORDER_DREG, "byteorder target")?,
            op: ByteorderOp::from_number(required(data, kind::BYTEORDER_OP, "byteorder")?),
            len: required(data, kind::BYTEORDER_LEN, "byteorder length")?,
            size: required(data, kind::BYTEORDER_SIZE, "byteorder size")?,
        }),
        "lookup" => Some(Expr::Lookup(decode_lookup(data)?)),
        "immediate" => {
            let datum = Datum::decode(data.find(kind::IMMEDIATE_DATA).unwrap_or_default())?;
            Some(match datum {
                Datum::Verdict(verdict) => Expr::Verdict(verdict),
                Datum::Value(value) => Expr::Immediate {
                    to: register(data, kind::IMMEDIATE_DREG, "immediate register")?,
                    value,
                },
            })
        }
        "counter" => {
            let count = |kind| {
                data.find(kind)
                    .map_or(Ok(0), |payload| read_be64(payload, "counter"))
            };
            Some(Expr::Counter {
                packets: count(kind::COUNTER_PACKETS)?,
                bytes: count(kind::COUNTER_BYTES)?,
            })
        }
        "log" => Some(Expr::Log(Log::decode(data)?)),
        "limit" => Some(Expr::Limit(Limit::decode(data)?)),
        "reject" => Reject::decode(data)?.map(Expr::Reject),
        "fib" => Some(Expr::Fib(Fib::decode(data)?)),
        "notrack" => Some(Expr::NoTrack),
        "masq" => Some(Expr::Masquerade {
            flags: number(data, kind::MASQ_FLAGS, "masquerade flags")?.unwrap_or(0),
            ports: NatRange::decode(data, kind::MASQ_PORT_MIN, kind::MASQ_PORT_MAX)?,
        }),
        "redir" => Some(Expr::Redirect {
            flags: number(data, kind::REDIR_FLAGS, "redirect flags")?.unwrap_or(0),
            ports: NatRange::decode(data, kind::REDIR_PORT_MIN, kind::REDIR_PORT_MAX)?,
        }),
        "nat" => Some(Expr::Nat(Nat::decode(data)?)),
        _ => None,
    })
}

fn decode_meta(data: Attributes<'_>) -> Result<Expr, Malformed> {
    let key = MetaKey::from_number(required(data, kind::META_KEY, "meta key")?);
    Ok(if data.find(kind::META_SREG).is_some() {
        Expr::SetMeta {
            key,
            from: register(data, kind::META_SREG, "meta source")?,
        }
    } else {
        Expr::Meta {
            key,
            to: register(data, kind::META_DREG, "meta target")?,
        }
    })
}

fn decode_ct(data: Attributes<'_>) -> Result<Expr, Malformed> {
    let key = CtKey::from_number(required(data, kind::CT_KEY, "connection key")?);
    if data.find(kind::CT_SREG).is_some() {
        return Ok(Expr::SetCt {
            key,
            from: register(data, kind::CT_SREG, "connection source")?,
        });
    }
    let direction = data
        .find(kind::CT_DIRECTION)
        .and_then(|direction| direction.first().copied());
    Ok(Expr::Ct {
        key,
        direction: direction.map(|direction| CtDirection::from_number(direction.into())),
        to: register(data, kind::CT_DREG, "connection target")?,
    })
}

fn decode_bitwise(data: Attributes<'_>) -> Result<Option<Expr>, Malformed> {
    if number(data, kind::BITWISE_OP, "bit operation")?.unwrap_or(BITWISE_MASK_XOR) != BITWISE_MASK_XOR {
        return Ok(None);
    }
    Ok(Some(Expr::Bitwise {
        from: register(data, kind::BITWISE_SREG, "bit operation source")?,
        to: register(data, kind::BITWISE_DREG, "bit operation target")?,
        mask: decode_value(data.find(kind::BITWISE_MASK).unwrap_or_default(), "bit mask")?,
        xor: decode_value(data.find(kind::BITWISE_XOR).unwrap_or_default(), "bit flips")?,
    }))
}

fn decode_lookup(data: Attributes<'_>) -> Result<Lookup, Malformed> {
    let inverted = number(data, kind::LOOKUP_FLAGS, "lookup flags")?.unwrap_or(0) & NFT_LOOKUP_F_INV != 0;
    let hit = match number(data, kind::LOOKUP_DREG, "lookup target")? {
        None if inverted => OnHit::Fail,
        None => OnHit::Match,
        Some(REGISTER_VERDICT) => OnHit::Verdict,
        Some(_) => OnHit::Load(register(data, kind::LOOKUP_DREG, "lookup target")?),
    };
    Ok(Lookup {
        set: read_text(
            data.find(kind::LOOKUP_SET)
                .ok_or(malformed("lookup without set"))?,
        )
        .into(),
        id: number(data, kind::LOOKUP_SET_ID, "lookup set number")?.map(SetId::from_number),
        from: register(data, kind::LOOKUP_SREG, "lookup source")?,
        hit,
    })
}
