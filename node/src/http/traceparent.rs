//! The trace that a request by HTTP belongs to: the header `traceparent` of W3C's Trace Context.

use hyper::HeaderMap;
use hyper::header::HeaderName;
use quoit_protocol::TraceId;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What version 00 has: `00-<32 digits>-<16 digits>-<2 digits>`.
const LENGTH: usize = 55;

/// A trace, and the span in it that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub(super) trace: TraceId,
    pub(super) span: u64,
}

impl TraceParent {
    /// The trace that the headers name, if it is sampled. A header that is not right is ignored, as W3C
    /// says, and so are two of them.
    pub(super) fn sampled(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let (text, None) = (given.next()?.to_str().ok()?, given.next()) else { return None };
        let (parent, is_sampled) = parse(text)?;
        is_sampled.then_some(parent)
    }
}

fn parse(text: &str) -> Option<(TraceParent, bool)> {
    // Later versions may add to what this one has.
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = known.split('-');
    let mut hexadecimal = |length: usize| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == length && part.bytes().all(is_digit))
    };
    let (version, trace) = (hexadecimal(2)?, hexadecimal(32)?);
    let (span, flags) = (hexadecimal(16)?, hexadecimal(2)?);
    match version {
        "ff" => return None,
        "00" if !rest.is_empty() => return None,
        _ if !rest.is_empty() && !rest.starts_with('-') => return None,
        _ => {}
    }
    let trace = trace.parse().ok()?;
    let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((TraceParent { trace, span }, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const RIGHT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(texts: &[&str]) -> Option<TraceParent> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(TRACEPARENT, HeaderValue::from_str(text).unwrap());
        }
        TraceParent::sampled(&headers)
    }

    #[test]
    fn a_sampled_request_names_its_trace_and_who_asks() {
        let trace = TraceId(0x0af7_6519_16cd_43dd, 0x8448_eb21_1c80_319c);
        let expected = Some(TraceParent { trace, span: 0xb7ad_6b71_6920_3331 });
        assert_eq!(of(&[RIGHT]), expected);
        // Of a later version its beginning is read, and of the flags the last bit.
        assert_eq!(of(&[&format!("cc{}-more", &RIGHT[2..])]), expected);
        assert_eq!(of(&[&format!("{}ff", &RIGHT[..53])]), expected);
        assert_eq!(of(&[&format!("{}02", &RIGHT[..53])]), None, "it is not sampled");
    }

    #[test]
    fn a_header_that_is_not_right_is_ignored() {
        let zeros = "0".repeat(32);
        for wrong in [
            "",
            "00",
            &RIGHT[..54],
            &format!("{RIGHT}-more"),
            &format!("cc{}more", &RIGHT[2..]),
            &format!("ff{}", &RIGHT[2..]),
            &RIGHT.to_uppercase(),
            &RIGHT.replace('-', "_"),
            &RIGHT.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            &RIGHT.replace("b7ad6b7169203331", &zeros[..16]),
            &RIGHT.replace("0af7", "+af7"),
        ] {
            assert_eq!(of(&[wrong]), None, "{wrong}");
        }
        assert_eq!(of(&[RIGHT, RIGHT]), None, "two are none");
        assert_eq!(of(&[]), None);
    }
}
