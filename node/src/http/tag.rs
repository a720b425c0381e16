//! Contexts and entity tags, both ways.
//!
//! A tag *is* the context that a read gave, with the number of live values before it (values expire
//! without any write) and a letter for the form in which several were shown. So `If-Match` alone is
//! enough to write over exactly what was read.
//!
//! What `If-Match` and `If-None-Match` promise: the key is read with a quorum, and where something
//! else is there than the tags say the request is refused with 412. Reading and writing are two steps:
//! of two writers that do so at the same moment both may pass. Then both values stay in a `siblings`
//! table, since neither context covers the other write, and the later one wins in a `latest` table. (The
//! library's `put_if_absent` reads once more after the write, so that at most one of them is told that
//! it was alone; whoever needs that by HTTP reads the key again, and is alone if the tag is its own.)

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::{ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use quoit_client::{Context, Reading};

use super::problem::{Kind, Problem};

/// The header that carries the context, in base64url.
pub(super) const CONTEXT: HeaderName = HeaderName::from_static("quoit-context");

/// A context as the header and JSON have it.
pub(super) fn context_text(context: &Context) -> String {
    URL_SAFE_NO_PAD.encode(context.as_bytes())
}

/// The context that a text stands for.
pub(super) fn context_of(text: &str) -> Result<Context, Problem> {
    URL_SAFE_NO_PAD.decode(text).map(Context::from_bytes).map_err(|_| {
        Problem::invalid("the context is not as a read gave it: it is base64url without padding")
    })
}

/// The context that a request carries; an empty one says no more than none.
pub(super) fn context_of_headers(headers: &HeaderMap) -> Result<Option<Context>, Problem> {
    let mut values = headers.get_all(CONTEXT).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid("Quoit-Context is given twice"));
    }
    let context = context_of(value.to_str().unwrap_or("?"))?;
    Ok((!context.is_none()).then_some(context))
}

/// The header of a context; none for that of a key that was never written.
pub(super) fn context_header(context: &Context) -> Option<(HeaderName, HeaderValue)> {
    (!context.is_none()).then(|| (CONTEXT, header_value(context_text(context))))
}

/// Adds the context, unless it is that of a key that was never written.
pub(super) fn put_context(headers: &mut HeaderMap, context: &Context) {
    headers.extend(context_header(context));
}

/// Adds the tag.
pub(super) fn put_tag(headers: &mut HeaderMap, tag: &Tag, form: &str) {
    headers.insert(ETAG, header_value(tag.text(form)));
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::from_str(&text).expect("base64url has only letters, digits, '-' and '_'")
}

/// What a key holds, as a tag says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    live: usize,
    context: Context,
}

impl Tag {
    /// Of what was read; `None` where the key is absent.
    pub(super) fn of(reading: &Reading) -> Option<Self> {
        let live = reading.siblings.len();
        (live > 0).then(|| Self { live, context: reading.context.clone() })
    }

    /// Of a value that stands alone.
    pub(super) fn of_single(context: Context) -> Self {
        Self { live: 1, context }
    }

    /// The entity tag, with its quotes.
    pub(super) fn text(&self, form: &str) -> String {
        format!("\"{}{form}.{}\"", self.live, context_text(&self.context))
    }

    /// Reads what stands between the quotes; `None` for a tag that is not one of ours.
    fn parse(text: &str) -> Option<Self> {
        let (head, context) = text.split_once('.')?;
        let live = head.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        let context = Context::from_bytes(URL_SAFE_NO_PAD.decode(context).ok()?);
        Some(Self { live: live.parse().ok()?, context })
    }
}

/// What a request demands of what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Preconditions {
    matches: Option<Condition>,
    matches_none: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// `*`: anything at all.
    Any,
    /// One of these.
    Tags(Vec<Tag>),
}

/// What a precondition that does not hold means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmet {
    /// `If-Match`: something else is there.
    Match,
    /// `If-None-Match`: it is there.
    NoneMatch,
}

impl Preconditions {
    pub(super) fn of_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            matches: condition(headers, IF_MATCH)?,
            matches_none: condition(headers, IF_NONE_MATCH)?,
        })
    }

    /// Whether nothing is demanded.
    pub(super) fn is_empty(&self) -> bool {
        self.matches.is_none() && self.matches_none.is_none()
    }

    /// Whether something must be there.
    pub(super) fn demands_match(&self) -> bool {
        self.matches.is_some()
    }

    /// Compares with what is there (RFC 9110, section 13.2.2).
    pub(super) fn check(&self, current: Option<&Tag>) -> Result<(), Unmet> {
        let is_met = |condition: &Condition| match (condition, current) {
            (_, None) => false,
            (Condition::Any, Some(_)) => true,
            (Condition::Tags(tags), Some(current)) => tags.contains(current),
        };
        if self.matches.as_ref().is_some_and(|condition| !is_met(condition)) {
            return Err(Unmet::Match);
        }
        if self.matches_none.as_ref().is_some_and(is_met) {
            return Err(Unmet::NoneMatch);
        }
        Ok(())
    }
}

/// That something else is there, and what.
pub(super) fn precondition_failed(reading: &Reading) -> Problem {
    let detail = "the key does not hold what the request demands: read it, and decide anew";
    let tag = Tag::of(reading).map(|tag| (ETAG, header_value(tag.text(""))));
    let headers = context_header(&reading.context).into_iter().chain(tag);
    headers.fold(Problem::new(Kind::PreconditionFailed, detail), |problem, (name, value)| {
        problem.with_header(name, value)
    })
}

fn condition(headers: &HeaderMap, name: HeaderName) -> Result<Option<Condition>, Problem> {
    let mut texts = Vec::new();
    for value in headers.get_all(&name) {
        let text = value.to_str().map_err(|_| Problem::invalid(format!("{name} is no text")))?;
        texts.push(text);
    }
    if texts.is_empty() {
        return Ok(None);
    }
    let text = texts.join(",");
    if text.trim() == "*" {
        return Ok(Some(Condition::Any));
    }
    // A weak tag never matches for If-Match, which compares strongly.
    let takes_weak = name == IF_NONE_MATCH;
    match tags(&text, takes_weak) {
        Some(tags) => Ok(Some(Condition::Tags(tags))),
        None => Err(Problem::invalid(format!(
            "{name} is not understood: write * or tags in quotes, as ETag gave them"
        ))),
    }
}

/// The tags of a list; those that are not ours match nothing and are left out.
fn tags(text: &str, takes_weak: bool) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    let mut rest = text.trim();
    let mut any = false;
    while !rest.is_empty() {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(after) => (true, after),
            None => (false, rest),
        };
        let (tag, after) = quoted.strip_prefix('"')?.split_once('"')?;
        any = true;
        if !weak || takes_weak {
            tags.extend(Tag::parse(tag));
        }
        let after = after.trim_start();
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
        rest = after.trim_start_matches([',', ' ', '\t']);
    }
    any.then_some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(live: usize, context: &'static [u8]) -> Tag {
        Tag { live, context: Context::from_bytes(context) }
    }

    fn preconditions(pairs: &[(HeaderName, String)]) -> Result<Preconditions, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Preconditions::of_headers(&headers)
    }

    #[test]
    fn a_tag_is_the_context_and_reads_back_in_every_form() {
        for form in ["", "j", "m"] {
            let text = tag(12, b"\0\xff\x10").text(form);
            assert_eq!(text, format!("\"12{form}.AP8Q\""));
            assert_eq!(Tag::parse(text.trim_matches('"')), Some(tag(12, b"\0\xff\x10")));
        }
        for other in ["", "x", "1", "1.=", "x.AP8Q", "-1.AP8Q"] {
            assert_eq!(Tag::parse(other), None, "{other}");
        }
    }

    #[test]
    fn preconditions_compare_with_what_is_there() {
        let (here, elsewhere) = (tag(1, b"here"), tag(1, b"elsewhere"));
        let list = format!("\"foreign\", W/{}, {}", elsewhere.text(""), here.text("j"));
        let same = preconditions(&[(IF_MATCH, list.clone())]).unwrap();
        assert_eq!(same.check(Some(&here)), Ok(()));
        // A weak tag does not count for If-Match, but for If-None-Match.
        assert_eq!(same.check(Some(&elsewhere)), Err(Unmet::Match));
        assert_eq!(same.check(None), Err(Unmet::Match));
        assert_eq!(same.check(Some(&tag(2, b"here"))), Err(Unmet::Match));
        let other = preconditions(&[(IF_NONE_MATCH, list)]).unwrap();
        assert_eq!(other.check(Some(&here)), Err(Unmet::NoneMatch));
        assert_eq!(other.check(Some(&elsewhere)), Err(Unmet::NoneMatch));
        assert_eq!(other.check(Some(&tag(2, b"here"))), Ok(()));
        assert_eq!(other.check(None), Ok(()));
        let any = preconditions(&[(IF_MATCH, "*".into())]).unwrap();
        assert_eq!((any.check(Some(&here)), any.check(None)), (Ok(()), Err(Unmet::Match)));
        let none = preconditions(&[(IF_NONE_MATCH, " * ".into())]).unwrap();
        assert_eq!((none.check(Some(&here)), none.check(None)), (Err(Unmet::NoneMatch), Ok(())));
        assert!(preconditions(&[]).unwrap().is_empty());
    }

    #[test]
    fn several_lines_are_one_list_and_nonsense_is_refused() {
        let here = tag(1, b"here");
        let lines = [(IF_MATCH, "\"a,b\"".into()), (IF_MATCH, here.text(""))];
        assert_eq!(preconditions(&lines).unwrap().check(Some(&here)), Ok(()));
        for wrong in ["", "1.AP8Q", "\"", "\"a\" \"b\"", "*, \"a\"", "w/\"a\""] {
            assert!(preconditions(&[(IF_MATCH, wrong.into())]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn contexts_go_through_the_header() {
        let context = Context::from_bytes(vec![0, 255, 16]);
        let mut headers = HeaderMap::new();
        put_context(&mut headers, &Context::none());
        assert_eq!(context_of_headers(&headers), Ok(None));
        put_context(&mut headers, &context);
        assert_eq!(context_of_headers(&headers), Ok(Some(context)));
        headers.append(CONTEXT, HeaderValue::from_static("AP8Q"));
        assert!(context_of_headers(&headers).is_err());
        headers.insert(CONTEXT, HeaderValue::from_static(""));
        assert_eq!(context_of_headers(&headers), Ok(None));
        assert!(context_of("AP8Q==").is_err() && context_of("+/").is_err());
        assert_eq!(context_of(""), Ok(Context::none()));
    }
}
