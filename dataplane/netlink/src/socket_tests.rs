//! The framing of netlink messages, byte by byte.

use super::*;
use proptest::prelude::*;

fn message(message_type: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(message_type.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(7_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes.resize(attributes::align(bytes.len()), 0);
    bytes
}

#[test]
fn two_messages_in_one_datagram_are_both_read() {
    let mut datagram = message(20, 2, &[1, 2, 3]);
    datagram.extend(message(DONE_MESSAGE, 2, &[0; 4]));
    let read: Vec<_> = messages(&datagram)
        .map(|message| (message.message_type, message.body.len()))
        .collect();
    assert_eq!(read, [(20, 3), (DONE_MESSAGE, 4)]);
}

#[test]
fn a_capped_error_with_words_is_read() {
    let mut body = (-17_i32).to_ne_bytes().to_vec();
    body.extend([0; HEADER]);
    attributes::put(&mut body, ERROR_TEXT, b"Nope\0");
    let datagram = message(ERROR_MESSAGE, CAPPED | ACK_ATTRIBUTES, &body);
    let refusal = acknowledgement(messages(&datagram).next().unwrap()).unwrap_err();
    assert_eq!(
        refusal,
        Refusal {
            errno: Errno::EEXIST,
            explanation: Some("Nope".into())
        }
    );
}

#[test]
fn a_whole_error_with_words_is_read() {
    let mut body = (-22_i32).to_ne_bytes().to_vec();
    body.extend(message(24, 0, &[9; 12]));
    attributes::put(&mut body, ERROR_TEXT, b"Nope\0");
    let datagram = message(ERROR_MESSAGE, ACK_ATTRIBUTES, &body);
    let refusal = acknowledgement(messages(&datagram).next().unwrap()).unwrap_err();
    assert_eq!(
        refusal,
        Refusal {
            errno: Errno::EINVAL,
            explanation: Some("Nope".into())
        }
    );
}

proptest! {
    #[test]
    fn no_datagram_panics_or_loops(bytes in proptest::collection::vec(any::<u8>(), 0..300), flags: u16) {
        for read in messages(&bytes) {
            let _ = acknowledgement(read);
            let _ = end_of_list(read);
        }
        let framed = message(ERROR_MESSAGE, flags, &bytes);
        for read in messages(&framed) {
            let _ = acknowledgement(read);
        }
    }
}

#[test]
fn an_answer_is_waited_for_as_long_as_the_settings_say() {
    let time = std::time::Duration::from_millis(20);
    let mut connection = Connection::open(super::Protocol::Route, Patience(time)).unwrap();
    // Nobody was asked, so nobody answers.
    let heard = connection.receive(&"ask nobody", |_| ControlFlow::Break(()));
    let error = heard.unwrap_err();
    assert!(
        matches!(error, NetlinkError::Timeout { time: waited, .. } if waited == time),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "ask nobody: the kernel did not answer within 20ms"
    );
}
