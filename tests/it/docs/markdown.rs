//! What there is in a document: links, headings, what is between backticks, commands and what they answer.

use std::collections::BTreeSet;

/// Lines of shell that a document shows, in blocks of it or between backticks, each with what continues it.
pub(super) fn shell_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = String::new();
    for (line, block) in lines(text) {
        let code = match block {
            Block::None => {
                found.extend(inline_code(line).into_iter().filter(|code| code.starts_with("envoy-sds ")));
                continue;
            }
            Block::Code("sh") => line,
            Block::Code("console") if !rest.is_empty() => line,
            Block::Code("console") => match line.trim_start().strip_prefix("$ ") {
                Some(command) => command,
                None => continue,
            },
            Block::Code(_) => continue,
        };
        rest.push_str(code.trim_end_matches('\\'));
        if code.ends_with('\\') {
            rest.push(' ');
        } else {
            found.push(std::mem::take(&mut rest));
        }
    }
    found
}

/// The commands that a document shows in a terminal, each with what it answers.
pub(super) fn sessions(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut continues = false;
    for (line, block) in lines(text) {
        let begins = line.trim_start().strip_prefix("$ ");
        match (begins, found.last_mut()) {
            _ if block != Block::Code("console") => continues = false,
            (None, Some((command, _))) if continues => {
                command.push_str(line.trim_end_matches('\\'));
                continues = line.ends_with('\\');
            }
            (Some(command), _) => {
                found.push((command.trim_end_matches('\\').to_owned(), String::new()));
                continues = line.ends_with('\\');
            }
            (None, Some((_, output))) => {
                output.push_str(line);
                output.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// Where a line is.
#[derive(Clone, Copy, PartialEq)]
enum Block<'t> {
    None,
    /// In a fenced block of this language.
    Code(&'t str),
}

/// The lines of a document but for the fences.
fn lines(text: &str) -> Vec<(&str, Block<'_>)> {
    let mut block = Block::None;
    let mut found = Vec::new();
    for line in text.lines() {
        match line.trim_start().strip_prefix("```") {
            Some(language) if block == Block::None => block = Block::Code(language.trim()),
            Some(_) => block = Block::None,
            None => found.push((line, block)),
        }
    }
    assert!(block == Block::None, "a fenced block has no end");
    found
}

/// What is between backticks, outside of blocks.
pub(super) fn inline_code(text: &str) -> Vec<String> {
    let lines = lines(text).into_iter().filter(|(_, block)| *block == Block::None);
    lines.flat_map(|(line, _)| line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The targets of links and pictures.
pub(super) fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (line, _) in lines(text).into_iter().filter(|(_, block)| *block == Block::None) {
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let after = prose.split("](").skip(1);
        found.extend(after.filter_map(|after| Some(after.split_once(')')?.0.to_owned())));
    }
    found
}

/// The anchors that a page gives to its headings.
pub(super) fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (line, _) in lines(text).into_iter().filter(|(_, block)| *block == Block::None) {
        let title = line.trim_start_matches('#');
        if title == line || !title.starts_with(' ') {
            continue;
        }
        let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
        let slug = title.trim().to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-");
        let again = (1..).map(|number| format!("{slug}-{number}"));
        let free = [slug.clone()].into_iter().chain(again).find(|slug| !found.contains(slug));
        found.extend(free);
    }
    found
}
