//! What is shown where writers disagreed, case by case.

use cairnfs::namespace::{AttrChange, Ino, Kind, Node, OpError};

use super::support::{Replica, exchange, name, volume};

const ROOT: Ino = Ino::ROOT;

fn conflict(stem: &str, ending: &str, seconds: u64, by: &Replica) -> String {
    let peer = by.writer.peer.short();
    let (minute, second) = (35 + seconds / 60, seconds % 60);
    format!("/{stem}.conflict-20261122T22{minute:02}{second:02}-{peer}{ending}")
}

#[test]
fn of_two_files_of_one_name_the_later_keeps_it() {
    let [mut one, mut two] = volume();
    one.file(ROOT, "a.txt", "one");
    two.now();
    two.file(ROOT, "a.txt", "two");
    let mut all = [one, two];
    exchange(&mut all);
    let copy = conflict("a", ".txt", 2, &all[0]);
    assert_eq!(
        all[0].tree(),
        [format!("{copy}=one"), "/a.txt=two".to_owned()]
    );
    assert_eq!(all[0].view().odd(None, 9).unwrap(), [(ROOT, name("a.txt"))]);
    // Removing the one leaves the other under the name that was shown.
    let [mut one, two] = all;
    one.unlink(ROOT, "a.txt").unwrap();
    assert_eq!(one.tree(), [format!("{copy}=one")]);
    assert!(one.view().is_plain());
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[1].tree(), [format!("{copy}=one")]);
}

#[test]
fn a_conflict_copy_is_renamed_removed_and_linked_like_any_file() {
    let [mut one, mut two] = volume();
    let ino = one.file(ROOT, "a", "old");
    two.pull(&one);
    one.write(ino, "one").unwrap();
    two.write(ino, "two").unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    let copy = conflict("a", "", 4, &all[0]);
    assert_eq!(all[0].tree().len(), 2, "{:?}", all[0].tree());
    let [mut one, mut two] = all;
    let shown = one.paths();
    let copies: Vec<_> = shown
        .values()
        .filter(|shown| shown.copy.is_some())
        .collect();
    assert_eq!(copies.len(), 1);
    let copy_name = String::from_utf8(copies[0].name.to_vec()).unwrap();
    assert!(copy_name.starts_with("a.conflict-"), "{copy_name} {copy}");
    // One renames the copy, the other removes the file: both mean what they saw.
    one.rename((ROOT, &copy_name), (ROOT, "b")).unwrap();
    two.unlink(ROOT, "a").unwrap();
    assert_eq!(two.tree().len(), 1);
    let mut all = [one, two];
    exchange(&mut all);
    let tree = all[0].tree();
    assert!(
        tree.contains(&"/b=one".to_owned()) || tree.contains(&"/b=two".to_owned()),
        "{tree:?}"
    );
    assert!(!tree.iter().any(|line| line.starts_with("/a=")), "{tree:?}");
}

#[test]
fn both_make_the_same_file_of_the_same_copy() {
    let [mut one, mut two] = volume();
    let ino = one.file(ROOT, "a", "old");
    two.pull(&one);
    one.write(ino, "one").unwrap();
    two.write(ino, "two").unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    for replica in &mut all {
        replica
            .edit(|edit| edit.settle_name(ROOT, &name("a")))
            .unwrap();
        assert!(replica.view().is_plain());
    }
    let before = all[0].tree();
    exchange(&mut all);
    assert_eq!(all[0].tree(), before);
    assert_eq!(before.len(), 2);
}

#[test]
fn directories_of_one_name_are_shown_as_one() {
    let [mut one, mut two] = volume();
    let d1 = one.dir(ROOT, "d");
    one.file(d1, "one", "1");
    let s1 = one.dir(d1, "sub");
    one.file(s1, "x", "x1");
    let d2 = two.dir(ROOT, "d");
    two.file(d2, "two", "2");
    let s2 = two.dir(d2, "sub");
    two.file(s2, "y", "y2");
    let mut all = [one, two];
    exchange(&mut all);
    let tree = [
        "/d/",
        "/d/one=1",
        "/d/sub/",
        "/d/sub/x=x1",
        "/d/sub/y=y2",
        "/d/two=2",
    ];
    assert_eq!(all[0].tree(), tree);
    // It is one directory for all that is done with it.
    let [mut one, two] = all;
    let shown = one.paths()["/d/"].ino;
    assert!(matches!(
        one.make(shown, "one", Node::File),
        Err(OpError::Exists)
    ));
    assert_eq!(one.rmdir(ROOT, "d"), Err(OpError::NotEmpty));
    one.unlink(shown, "one").unwrap();
    one.unlink(shown, "two").unwrap();
    one.file(shown, "three", "3");
    let sub = one.paths()["/d/sub/"].ino;
    assert_eq!(
        one.rename((ROOT, "d"), (sub, "d")),
        Err(OpError::IntoItself)
    );
    one.rename((ROOT, "d"), (ROOT, "e")).unwrap();
    let tree = ["/e/", "/e/sub/", "/e/sub/x=x1", "/e/sub/y=y2", "/e/three=3"];
    assert_eq!(one.tree(), tree);
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[1].tree(), tree);
    // And it can be emptied and removed.
    let [mut one, two] = all;
    let e = one.paths()["/e/"].ino;
    let sub = one.paths()["/e/sub/"].ino;
    one.unlink(sub, "x").unwrap();
    one.unlink(sub, "y").unwrap();
    one.rmdir(e, "sub").unwrap();
    one.unlink(e, "three").unwrap();
    one.rmdir(ROOT, "e").unwrap();
    assert!(one.tree().is_empty() && one.view().is_plain());
    exchange(&mut [one, two]);
}

#[test]
fn a_file_and_a_directory_of_one_name_are_both_shown() {
    let [mut one, mut two] = volume();
    let dir = one.dir(ROOT, "x");
    one.file(dir, "in", "1");
    two.now();
    two.now();
    two.file(ROOT, "x", "2");
    let mut all = [one, two];
    exchange(&mut all);
    let copy = conflict("x", "", 2, &all[0]);
    let tree = [
        format!("{copy}/"),
        format!("{copy}/in=1"),
        "/x=2".to_owned(),
    ];
    assert_eq!(all[0].tree(), tree);
}

#[test]
fn an_edit_wins_over_a_removal_and_comes_back_with_its_mode() {
    let [mut one, mut two] = volume();
    let dir = one.dir(ROOT, "d");
    let ino = one.file(dir, "f", "old");
    two.pull(&one);
    one.unlink(dir, "f").unwrap();
    assert_eq!(one.write(ino, "x"), Err(OpError::Gone));
    two.write(ino, "new").unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[0].tree(), ["/d/", "/d/f=new"]);
    let stat = all[0].view().stat_ino(ino).unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid, stat.gid), (0o644, 1000, 100));
    // It is removed like any other file.
    let [mut one, two] = all;
    one.unlink(dir, "f").unwrap();
    assert_eq!(one.tree(), ["/d/"]);
    let mut all = [one, two];
    exchange(&mut all);
    assert!(all[0].view().is_plain());
}

#[test]
fn an_edit_survives_a_rename_over_its_file() {
    let [mut one, mut two] = volume();
    let ino = one.file(ROOT, "f", "old");
    two.pull(&one);
    one.file(ROOT, ".tmp", "saved");
    one.rename((ROOT, ".tmp"), (ROOT, "f")).unwrap();
    two.write(ino, "edited").unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    let tree = all[0].tree();
    assert!(tree.contains(&"/f=saved".to_owned()), "{tree:?}");
    assert!(
        tree[0].starts_with("/f.conflict-") && tree[0].ends_with("=edited"),
        "{tree:?}"
    );
}

#[test]
fn a_rename_and_an_edit_and_a_removal_of_one_file() {
    let [mut one, mut two, mut three] = volume();
    let ino = one.file(ROOT, "f", "old");
    two.pull(&one);
    three.pull(&one);
    one.rename((ROOT, "f"), (ROOT, "g")).unwrap();
    two.write(ino, "new").unwrap();
    three.unlink(ROOT, "f").unwrap();
    let mut all = [one, two, three];
    exchange(&mut all);
    // The name that the rename wrote anew does not compete with the edit.
    assert_eq!(all[0].tree(), ["/g=new"]);
    assert!(all[0].view().is_plain());
}

#[test]
fn attributes_are_joined_field_by_field() {
    let [mut one, mut two] = volume();
    let ino = one.file(ROOT, "f", "x");
    two.pull(&one);
    let mode = AttrChange {
        mode: Some(0o600),
        ..AttrChange::default()
    };
    let owner = AttrChange {
        uid: Some(7),
        ..AttrChange::default()
    };
    one.edit(|edit| edit.set_attrs(ino, &mode)).unwrap();
    two.edit(|edit| edit.set_attrs(ino, &owner)).unwrap();
    two.write(ino, "y").unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    let stat = all[0].view().stat_ino(ino).unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid, stat.size()), (0o600, 7, 1));
    assert_eq!(all[0].tree(), ["/f=y"]);
}

#[test]
fn a_relocation_yields_to_an_edit_and_makes_no_copy() {
    let [mut one, mut two] = volume();
    let ino = one.file(ROOT, "f", "text");
    two.pull(&one);
    let content = one.view().stat_ino(ino).unwrap().unwrap().content.unwrap();
    let body = content.body.clone();
    let relocate = |replica: &mut Replica| {
        replica.edit(|edit| edit.relocate(ino, &content.edits, body.clone()))
    };
    relocate(&mut one).unwrap();
    relocate(&mut two).unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[0].tree(), ["/f=text"]);
    let [mut one, mut two] = all;
    two.write(ino, "edit").unwrap();
    relocate(&mut one).unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[0].tree(), ["/f=edit"]);
    assert_eq!(
        relocate(&mut all[1]),
        Ok(()),
        "the value that lost is still there"
    );
    all[1].write(ino, "more").unwrap();
    assert_eq!(relocate(&mut all[1]), Err(OpError::Changed));
}

#[test]
fn a_directory_moved_to_two_places_is_at_the_newest() {
    let [mut one, mut two] = volume();
    let dir = one.dir(ROOT, "d");
    one.file(dir, "f", "x");
    two.pull(&one);
    one.rename((ROOT, "d"), (ROOT, "one")).unwrap();
    two.rename((ROOT, "d"), (ROOT, "two")).unwrap();
    two.now_ms += 1;
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[0].tree(), ["/two/", "/two/f=x"]);
    // Its other entry is not in the way: the name is free.
    let [mut one, two] = all;
    assert_eq!(one.unlink(ROOT, "one"), Err(OpError::NotFound));
    one.file(ROOT, "one", "new");
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[1].tree(), ["/one=new", "/two/", "/two/f=x"]);
    // It is removed for good, wherever else it was named.
    let [mut one, two] = all;
    one.unlink(dir, "f").unwrap();
    one.rmdir(ROOT, "two").unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[1].tree(), ["/one=new"]);
    assert!(all[1].view().is_plain());
}

#[test]
fn a_circle_of_moves_is_opened_at_the_newest() {
    let [mut one, mut two] = volume();
    let x = one.dir(ROOT, "x");
    let y = one.dir(ROOT, "y");
    one.file(x, "in x", "1");
    one.file(y, "in y", "2");
    two.pull(&one);
    one.rename((ROOT, "x"), (y, "x")).unwrap();
    two.now();
    two.rename((ROOT, "y"), (x, "y")).unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    // The later move is as if it had not been.
    let tree = ["/y/", "/y/in y=2", "/y/x/", "/y/x/in x=1"];
    assert_eq!(all[0].tree(), tree);
    // Whatever is done next makes it plain.
    let [mut one, two] = all;
    one.file(y, "more", "3");
    one.rename((y, "x"), (ROOT, "x")).unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    let tree = ["/x/", "/x/in x=1", "/y/", "/y/in y=2", "/y/more=3"];
    assert_eq!(all[1].tree(), tree);
}

#[test]
fn something_put_into_a_removed_directory_brings_it_back() {
    let [mut one, mut two] = volume();
    let dir = one.dir(ROOT, "d");
    two.pull(&one);
    one.rmdir(ROOT, "d").unwrap();
    two.file(dir, "f", "x");
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[0].tree(), ["/d/", "/d/f=x"]);
    let stat = all[0].view().stat_ino(dir).unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid), (0o644, 1000));
    // A new directory of that name is shown as one with it.
    let [mut one, two] = all;
    let found = one.view().lookup(ROOT, &name("d")).unwrap().unwrap();
    assert_eq!((found.ino, found.kind), (dir, Kind::Directory));
    one.file(dir, "g", "y");
    assert!(one.view().is_plain(), "it has an entry again");
    one.unlink(dir, "f").unwrap();
    one.unlink(dir, "g").unwrap();
    one.rmdir(ROOT, "d").unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    assert!(all[1].tree().is_empty());
}

#[test]
fn a_directory_made_anew_is_shown_as_one_with_what_came_back() {
    let [mut one, mut two] = volume();
    let dir = one.dir(ROOT, "d");
    two.pull(&one);
    one.rmdir(ROOT, "d").unwrap();
    let new = one.dir(ROOT, "d");
    one.file(new, "f", "new");
    two.file(dir, "g", "old");
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[0].tree(), ["/d/", "/d/f=new", "/d/g=old"]);
    let [mut one, two] = all;
    one.rename((ROOT, "d"), (ROOT, "e")).unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    assert_eq!(all[1].tree(), ["/e/", "/e/f=new", "/e/g=old"]);
}

#[test]
fn what_has_no_place_left_is_in_lost_and_found() {
    let [mut one, mut two] = volume();
    let outer = one.dir(ROOT, "outer");
    let inner = one.dir(outer, "inner");
    let file = one.file(outer, "f", "old");
    two.pull(&one);
    one.unlink(outer, "f").unwrap();
    one.rmdir(outer, "inner").unwrap();
    one.rmdir(ROOT, "outer").unwrap();
    two.write(file, "edit").unwrap();
    two.file(inner, "g", "x");
    let mut all = [one, two];
    exchange(&mut all);
    let expected = {
        let mut tree = vec![
            "/lost+found/".to_owned(),
            format!("/lost+found/{file}=edit"),
            format!("/lost+found/{inner}/"),
            format!("/lost+found/{inner}/g=x"),
        ];
        tree.sort();
        tree
    };
    assert_eq!(all[0].tree(), expected);
    let [mut one, two] = all;
    assert_eq!(one.rmdir(ROOT, "lost+found"), Err(OpError::Fixed));
    one.rename((Ino::LOST, &file.to_string()), (ROOT, "f"))
        .unwrap();
    one.rename((Ino::LOST, &inner.to_string()), (ROOT, "inner"))
        .unwrap();
    assert_eq!(one.tree(), ["/f=edit", "/inner/", "/inner/g=x"]);
    assert!(one.view().is_plain(), "empty, it is not shown");
    exchange(&mut [one, two]);
}

#[test]
fn a_home_that_comes_back_takes_its_files_back() {
    let [mut one, mut two, mut three] = volume();
    let dir = one.dir(ROOT, "d");
    let file = one.file(dir, "f", "old");
    two.pull(&one);
    three.pull(&one);
    one.unlink(dir, "f").unwrap();
    one.rmdir(ROOT, "d").unwrap();
    two.write(file, "edit").unwrap();
    one.pull(&two);
    assert_eq!(one.tree()[0], "/lost+found/");
    three.rename((ROOT, "d"), (ROOT, "e")).unwrap();
    one.pull(&three);
    // The directory is there by its new name.
    assert_eq!(one.tree(), ["/e/", "/e/f=edit"]);
    exchange(&mut [one, two, three]);
}

#[test]
fn a_name_that_looks_like_a_conflict_is_left_alone() {
    let [mut one, mut two] = volume();
    let first = one.file(ROOT, "a", "1");
    two.pull(&one);
    one.write(first, "one").unwrap();
    two.write(first, "two").unwrap();
    let mut all = [one, two];
    exchange(&mut all);
    let copies = all[0].paths();
    let copy = copies
        .keys()
        .find(|path| path.contains("conflict"))
        .unwrap();
    let copy = copy.trim_start_matches('/').to_owned();
    let [mut one, two] = all;
    assert!(matches!(
        one.make(ROOT, &copy, Node::File),
        Err(OpError::Exists)
    ));
    // Somebody who knows of no conflict makes a file of just that name.
    let [_, mut other] = volume::<2>();
    other.writer.peer.0 = [7; 32];
    other.file(ROOT, &copy, "mine");
    let mut all = [one, two, other];
    exchange(&mut all);
    let tree = all[0].tree();
    assert_eq!(tree.len(), 3, "{tree:?}");
    assert!(tree.contains(&format!("/{copy}=mine")), "{tree:?}");
    assert!(tree.iter().any(|line| line.contains("-2=")), "{tree:?}");
}
