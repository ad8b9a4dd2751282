s=open("mut.py").read()
i=s.index("M=[");j=s.index("]\nfor")
keep=[l for l in s[i+3:j].splitlines() if any(k in l for k in ("is_file()","checksum_verification","formats=_FORMATS",'norm="l2"'))]
open("mut2.py","w").write(s[:i]+"M=["+"\n".join(keep)+s[j:].replace('"--deselect","x",','"--timeout","25",'))
