"""Find the commit that broke something: `python examples/bisect.py --help`. The program is `git_bisect.py` beside this.

The standard library has a `bisect` too, and for programs of this folder this one is found first: it stands in for that.
"""

if __name__ == "bisect":
    from _bisect import bisect_left, bisect_right, insort_left, insort_right

    bisect, insort = bisect_right, insort_right
else:
    from git_bisect import bisect, main

    if __name__ == "__main__":
        raise SystemExit(main())
