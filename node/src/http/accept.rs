//! Which form of an answer its reader takes (RFC 9110, section 12.5.1).

use hyper::HeaderMap;
use hyper::header::ACCEPT;

use super::problem::{Kind, Problem};

/// Only so much of the header is looked at, in bytes and in ranges.
const BYTES_MAX: usize = 4 << 10;
const RANGES_MAX: usize = 64;

/// The one of `offered`, the first preferred, that the reader likes best.
pub(super) fn choose<T: Copy>(headers: &HeaderMap, offered: &[(&str, T)]) -> Result<T, Problem> {
    let mut ranges = Vec::new();
    for value in headers.get_all(ACCEPT) {
        let text = value.to_str().ok().filter(|text| text.len() <= BYTES_MAX);
        let text = text.ok_or_else(|| Problem::invalid("Accept is no text, or too long"))?;
        ranges.extend(text.split(',').map(str::trim).filter(|range| !range.is_empty()));
    }
    ranges.truncate(RANGES_MAX);
    if ranges.is_empty() {
        ranges.push("*/*");
    }
    let mut best: Option<(u16, T)> = None;
    for (media_type, form) in offered {
        let quality = quality(&ranges, media_type);
        if quality > best.map_or(0, |(best, _)| best) {
            best = Some((quality, *form));
        }
    }
    best.map(|(_, form)| form).ok_or_else(|| {
        let types: Vec<_> = offered.iter().map(|(media_type, _)| *media_type).collect();
        Problem::new(
            Kind::NotAcceptable,
            format!("it can be had as {}: accept one of these", types.join(" or ")),
        )
    })
}

/// How much a type is liked, in thousandths: as the most specific range says that covers it.
fn quality(ranges: &[&str], media_type: &str) -> u16 {
    let (kind, _) = media_type.split_once('/').unwrap_or((media_type, ""));
    let mut best = (0, 0);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let specific = match name.split_once('/') {
            Some(_) if name.eq_ignore_ascii_case(media_type) => 3,
            Some((own, "*")) if own.eq_ignore_ascii_case(kind) => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        let given = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let quality = given.map_or(1_000, thousandths);
        if specific > best.0 || (specific == best.0 && quality > best.1) {
            best = (specific, quality);
        }
    }
    best.1
}

fn thousandths(text: &str) -> u16 {
    match text.parse::<f32>() {
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1_000.0) as u16,
        _ => 1_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn chosen(accept: Option<&str>) -> Option<char> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
        }
        choose(&headers, &[("multipart/mixed", 'm'), ("application/json", 'j')]).ok()
    }

    #[test]
    fn the_form_that_is_liked_best_is_chosen() {
        for (accept, expected) in [
            (None, Some('m')),
            (Some(""), Some('m')),
            (Some("*/*"), Some('m')),
            (Some("application/json"), Some('j')),
            (Some("Application/JSON; q=0.5, */*; q=0.1"), Some('j')),
            (Some("application/*"), Some('j')),
            (Some("application/json, multipart/mixed"), Some('m')),
            (Some("application/json, multipart/mixed;q=0.9"), Some('j')),
            (Some("*/*, multipart/mixed;q=0"), Some('j')),
            (Some("text/html, image/png"), None),
            (Some("application/json;q=0"), None),
            (Some("nonsense"), None),
        ] {
            assert_eq!(chosen(accept), expected, "{accept:?}");
        }
    }
}
