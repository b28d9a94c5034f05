//! What goes wrong on request.

use std::time::Duration;

use super::wire::{Reply, Request};
use super::{Shared, State};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Hub,
    Cdn,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status, and this `Retry-After`.
    Status(u16, Option<u64>),
    /// 429 at this `Date`, with this date as `Retry-After`.
    Later(String, String),
    /// Waits so many milliseconds before it answers.
    Delay(u64),
    /// Sends so many bytes of the body, then resets the connection.
    Cut(u64),
    /// Sends so many bytes of the body, then closes the connection.
    Close(u64),
    /// Sends so many bytes of the body, then nothing for so many milliseconds.
    Stall(u64, u64),
    /// Sends so many bytes of the body, then one now and then, with so many milliseconds between.
    Trickle(u64, u64),
    /// Sends so many bytes a second, over this connection.
    Rate(u64),
    /// Announces and sends so many bytes only.
    Truncate(u64),
    /// Another entity tag, on whichever header there is.
    WrongEtag,
    /// The first byte of the body is another one.
    Flip,
    /// Ranges are ignored: the whole file and 200.
    NoRange,
    /// Says that the range begins one byte later than it does.
    LyingRange,
    /// Says that the whole has another length.
    LyingTotal,
    /// Sends another range than was asked for, and says so.
    OtherRange,
    /// Closes the connection without an answer.
    Drop,
    /// Redirects to this address; with the right headers, if the right answer is a redirect.
    Redirect(String),
    /// All addresses given out so far cease to work, this one included.
    Expire,
}

/// A fault and the requests that it befalls.
#[derive(Debug, Clone)]
pub struct Rule {
    pub side: Side,
    /// Method, or empty for any.
    pub method: String,
    /// Part of the path, or empty for any.
    pub path: String,
    /// How many requests yet.
    pub times: u32,
    pub fault: Fault,
}

impl Fault {
    /// `status CODE [RETRY-AFTER]`, `delay MS`, `cut BYTES`, `close BYTES`, `stall BYTES MS`, `trickle BYTES MS`, `rate BYTES`, `truncate BYTES`, `wrong-etag`, `flip`,
    /// `no-range`, `lying-range`, `lying-total`, `other-range`, `drop`, `redirect URL`, `expire`.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        Some(match *words.first()? {
            "status" => Self::Status(number(1)? as u16, number(2)),
            "delay" => Self::Delay(number(1)?),
            "cut" => Self::Cut(number(1)?),
            "close" => Self::Close(number(1)?),
            "stall" => Self::Stall(number(1)?, number(2)?),
            "trickle" => Self::Trickle(number(1)?, number(2)?),
            "rate" => Self::Rate(number(1)?),
            "truncate" => Self::Truncate(number(1)?),
            "wrong-etag" => Self::WrongEtag,
            "flip" => Self::Flip,
            "no-range" => Self::NoRange,
            "lying-range" => Self::LyingRange,
            "lying-total" => Self::LyingTotal,
            "other-range" => Self::OtherRange,
            "redirect" => Self::Redirect((*words.get(1)?).to_owned()),
            "drop" => Self::Drop,
            "expire" => Self::Expire,
            _ => return None,
        })
    }
}

impl Rule {
    /// `SIDE METHOD PATH TIMES FAULT`, with `hub` or `cdn` as side and `*` for any method or path.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        let side = match words.next()? {
            "hub" => Side::Hub,
            "cdn" => Side::Cdn,
            _ => return None,
        };
        let mut any = || words.next().map(|word| if word == "*" { "" } else { word }.to_owned());
        let (method, path) = (any()?, any()?);
        Some(Self { side, method, path, times: words.next()?.parse().ok()?, fault: Fault::parse(words.next()?)? })
    }
}

impl State {
    /// The fault that befalls this request, if there is one; it is used up by that.
    pub fn fault(&mut self, side: Side, request: &Request) -> Option<Fault> {
        let befalls = |rule: &&mut Rule| {
            rule.times > 0
                && rule.side == side
                && (rule.method.is_empty() || rule.method == request.method)
                && request.path.contains(&rule.path)
        };
        let rule = self.faults.iter_mut().find(befalls)?;
        rule.times -= 1;
        let fault = rule.fault.clone();
        if fault == Fault::Expire {
            self.generation += 1;
        }
        Some(fault)
    }
}

/// The answer that takes the place of the right one.
pub fn before(fault: Option<&Fault>) -> Option<Reply> {
    match fault? {
        Fault::Status(status, after) => {
            let reply = Reply::error(*status, "", "not now");
            Some(match after {
                Some(after) => reply.with("Retry-After", &after.to_string()),
                None => reply,
            })
        }
        Fault::Later(now, then) => Some(Reply::error(429, "", "not now").with("Date", now).with("Retry-After", then)),
        Fault::Delay(millis) => {
            std::thread::sleep(Duration::from_millis(*millis));
            None
        }
        _ => None,
    }
}

/// Makes the right answer a wrong one.
pub fn distort(fault: Option<&Fault>, reply: &mut Reply) {
    match fault {
        Some(Fault::Redirect(to)) => {
            reply.status = 302;
            reply.set("Location", to);
        }
        Some(Fault::Truncate(len)) => reply.len = reply.len.min(*len),
        Some(Fault::WrongEtag) => {
            for name in ["ETag", "X-Linked-Etag"] {
                if reply.get(name).is_some() {
                    reply.set(name, &format!("\"{}\"", "0123456789abcdef".repeat(4)));
                }
            }
        }
        Some(Fault::LyingRange) if reply.status == 206 => {
            let whole = reply.body.len();
            reply.set("Content-Range", &format!("bytes {}-{}/{whole}", reply.start + 1, reply.start + reply.len));
        }
        Some(Fault::LyingTotal) if reply.status == 206 => {
            let whole = reply.body.len() + 1;
            reply.set("Content-Range", &format!("bytes {}-{}/{whole}", reply.start, reply.start + reply.len - 1));
        }
        Some(Fault::OtherRange) if reply.status == 206 => {
            reply.start -= 1;
            let whole = reply.body.len();
            reply.set("Content-Range", &format!("bytes {}-{}/{whole}", reply.start, reply.start + reply.len - 1));
        }
        _ => {}
    }
}

/// Adds the faults of a request's body.
pub fn add(shared: &Shared, body: &[u8]) -> usize {
    let text = String::from_utf8_lossy(body);
    let rules: Vec<Rule> = text.lines().filter_map(Rule::parse).collect();
    let added = rules.len();
    shared.state().faults.extend(rules);
    added
}
